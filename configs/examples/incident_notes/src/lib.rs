//! Reads logs with a tool, remembers what was wrong, and is asked for it later.

#[path = "../../../sdk/rust/src/caxton.rs"]
mod caxton;

use caxton::{json, Agent, Value};

struct IncidentNotes;

impl Agent for IncidentNotes {
    const CAPABILITIES: &'static [&'static str] = &["incident-notes"];

    fn handle(message: &Value) -> Result<Value, String> {
        let content = &message["content"];
        if let Some(question) = content["question"].as_str() {
            return Ok(json!({ "remembered": caxton::search(question, 5)? }));
        }
        let service = content["service"].as_str().ok_or("content.service or content.question is missing")?;
        let log = content["log"].as_str().ok_or("content.log is missing")?;
        let report = caxton::call_tool("text_log", &json!({ "text": log }))?;
        let note = format!("{service}: {}", first_problem(&report));
        caxton::remember(&note)?;
        Ok(json!({ "noted": note, "errors": report["errors"] }))
    }
}

fn first_problem(report: &Value) -> &str {
    report["problems"][0]["message"].as_str().unwrap_or("nothing was wrong")
}

caxton::agent!(IncidentNotes);
