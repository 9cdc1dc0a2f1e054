//! The interface of Caxton's core modules in Rust. It is a copy: it belongs to this agent, and can be changed.
//!
//! What is imported must be granted in the agent file; what is not called is not imported.
#![allow(dead_code)]

pub use serde_json::{json, Value};

mod host {
    #[link(wasm_import_module = "caxton")]
    extern "C" {
        pub fn send_message(at: *const u8, length: usize) -> i32;
        pub fn console_log(at: *const u8, length: usize);
        pub fn console_error(at: *const u8, length: usize);
        pub fn current_timestamp() -> i64;
        pub fn random_u32() -> u32;
        pub fn store_data(key: *const u8, key_length: usize, at: *const u8, length: usize) -> i32;
        pub fn load_data(key: *const u8, key_length: usize, at: *mut u8, room: usize) -> i32;
        pub fn delete_data(key: *const u8, key_length: usize) -> i32;
        pub fn set_timer(number: u32, delay_us: i64) -> i32;
        pub fn cancel_timer(number: u32) -> i32;
        pub fn search_memory(query: *const u8, length: usize, limit: u32) -> i32;
        pub fn store_memory(at: *const u8, length: usize) -> i32;
        pub fn call_tool(name: *const u8, name_length: usize, at: *const u8, length: usize) -> i32;
        pub fn take_answer(at: *mut u8, room: usize) -> i32;
    }
}

/// What an agent does; give it to [`agent!`].
pub trait Agent {
    /// What it offers, where it is deployed without an agent file.
    const CAPABILITIES: &'static [&'static str] = &[];

    /// Answer a message: the content of an INFORM, or the reason of a FAILURE.
    fn handle(message: &Value) -> Result<Value, String>;

    /// A timer is up.
    fn timer(_number: u32) {}
}

/// Send a message: `{"performative", "content", "receiver" | "capability" | "topic"}`; without an address
/// it is a reply. Grant for others: messages.
pub fn send(message: &Value) {
    let text = message.to_string();
    unsafe { host::send_message(text.as_ptr(), text.len()) };
}

pub fn log(text: &str) {
    unsafe { host::console_log(text.as_ptr(), text.len()) }
}

pub fn log_error(text: &str) {
    unsafe { host::console_error(text.as_ptr(), text.len()) }
}

/// Microseconds since 1970; the same during one call. Grant: clock.
pub fn now_us() -> i64 {
    unsafe { host::current_timestamp() }
}

/// Grant: random.
pub fn random() -> u32 {
    unsafe { host::random_u32() }
}

/// Keep a text; false when there is no room. Grant: state.
pub fn store(key: &str, value: &str) -> bool {
    unsafe { host::store_data(key.as_ptr(), key.len(), value.as_ptr(), value.len()) == 0 }
}

/// A text that was kept. Grant: state.
pub fn load(key: &str) -> Option<String> {
    let mut room = vec![0; 256];
    loop {
        let found = unsafe { host::load_data(key.as_ptr(), key.len(), room.as_mut_ptr(), room.len()) };
        let length = usize::try_from(found).ok()?;
        let fits = length <= room.len();
        room.resize(length, 0);
        if fits {
            return String::from_utf8(room).ok();
        }
    }
}

/// Forget a text; false when there was none. Grant: state.
pub fn delete(key: &str) -> bool {
    unsafe { host::delete_data(key.as_ptr(), key.len()) == 0 }
}

/// Have [`Agent::timer`] called once; false when there are too many timers. Grant: timers.
pub fn set_timer(number: u32, delay_us: u64) -> bool {
    unsafe { host::set_timer(number, delay_us as i64) == 0 }
}

/// Grant: timers.
pub fn cancel_timer(number: u32) -> bool {
    unsafe { host::cancel_timer(number) == 0 }
}

/// Texts of the memory, the best first; else why not. Grant: memory.
pub fn search(query: &str, limit: u32) -> Result<Vec<String>, String> {
    let found = answer(unsafe { host::search_memory(query.as_ptr(), query.len(), limit) })?;
    serde_json::from_str(&found).map_err(|error| error.to_string())
}

/// Store a text in the memory: its id, or why not. Grant: memory.
pub fn remember(text: &str) -> Result<String, String> {
    answer(unsafe { host::store_memory(text.as_ptr(), text.len()) })
}

/// Call a tool of the agent file with an object: its result, or why there is none. Grant: tools.
pub fn call_tool(name: &str, arguments: &Value) -> Result<Value, String> {
    let given = arguments.to_string();
    let status = unsafe { host::call_tool(name.as_ptr(), name.len(), given.as_ptr(), given.len()) };
    serde_json::from_str(&answer(status)?).map_err(|error| error.to_string())
}

fn answer(status: i32) -> Result<String, String> {
    let length = unsafe { host::take_answer(std::ptr::null_mut(), 0) }.max(0) as usize;
    let mut room = vec![0; length];
    unsafe { host::take_answer(room.as_mut_ptr(), length) };
    let text = String::from_utf8_lossy(&room).into_owned();
    if status < 0 { Err(text) } else { Ok(text) }
}

pub(crate) fn allocate(size: usize) -> *mut u8 {
    let mut room = vec![0u8; size.max(1)].into_boxed_slice();
    let at = room.as_mut_ptr();
    std::mem::forget(room);
    at
}

/// # Safety
/// `at` is what [`allocate`] returned for `length`, and is not used again.
pub(crate) unsafe fn handle<A: Agent>(at: *mut u8, length: usize) -> i32 {
    let room = Box::from_raw(std::ptr::slice_from_raw_parts_mut(at, length.max(1)));
    let Ok(message) = serde_json::from_slice::<Value>(&room[..length]) else { return 1 };
    send(&match A::handle(&message) {
        Ok(content) => json!({ "performative": "inform", "content": content }),
        Err(reason) => json!({ "performative": "failure", "content": { "reason": reason } }),
    });
    0
}

pub(crate) fn capabilities<A: Agent>(at: *mut u8, room: usize) -> usize {
    let text = json!(A::CAPABILITIES).to_string();
    if text.len() <= room {
        unsafe { std::ptr::copy_nonoverlapping(text.as_ptr(), at, text.len()) };
    }
    text.len()
}

/// Export an [`Agent`].
macro_rules! agent {
    ($agent:ty) => {
        #[no_mangle]
        extern "C" fn caxton_alloc(size: usize) -> *mut u8 {
            $crate::caxton::allocate(size)
        }
        #[no_mangle]
        extern "C" fn agent_init() -> i32 {
            0
        }
        #[no_mangle]
        unsafe extern "C" fn handle_message(at: *mut u8, length: usize) -> i32 {
            $crate::caxton::handle::<$agent>(at, length)
        }
        #[no_mangle]
        extern "C" fn handle_timer(number: u32) -> i32 {
            <$agent as $crate::caxton::Agent>::timer(number);
            0
        }
        #[no_mangle]
        extern "C" fn get_capabilities(at: *mut u8, room: usize) -> usize {
            $crate::caxton::capabilities::<$agent>(at, room)
        }
    };
}
pub(crate) use agent;
