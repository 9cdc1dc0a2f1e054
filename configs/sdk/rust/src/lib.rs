//! Greets by name, counts whom it has greeted, and reminds of it when it was asked to.

mod caxton;

use caxton::{json, Agent, Value};

struct Greeter;

impl Agent for Greeter {
    const CAPABILITIES: &'static [&'static str] = &["greeting"];

    fn handle(message: &Value) -> Result<Value, String> {
        let content = &message["content"];
        let name = content["name"].as_str().ok_or("content.name is missing")?;
        let count = count_up();
        if let Some(delay_ms) = content["remind_after_ms"].as_u64() {
            caxton::store("remind", message["sender"].as_str().unwrap_or_default());
            caxton::set_timer(1, delay_ms * 1000);
        }
        caxton::log(&format!("greeted {name}"));
        Ok(json!({
            "greeting": format!("Hello, {name}!"),
            "count": count,
            "at_us": caxton::now_us(),
            "lucky": caxton::random() % 100,
        }))
    }

    fn timer(_number: u32) {
        if let Some(who) = caxton::load("remind") {
            caxton::delete("remind");
            caxton::log("reminded");
            caxton::send(&json!({
                "performative": "inform",
                "receiver": who,
                "content": "Time to greet again.",
            }));
        }
    }
}

fn count_up() -> u64 {
    let count = caxton::load("count").and_then(|text| text.parse().ok()).unwrap_or(0) + 1;
    caxton::store("count", &count.to_string());
    count
}

caxton::agent!(Greeter);
