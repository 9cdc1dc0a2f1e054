//! The interface of Caxton's core modules in Zig. It is a copy: it belongs to this agent, and can be changed.
//! What is imported must be granted in the agent file; what is not called is not imported.
const std = @import("std");

const host = struct {
    extern "caxton" fn send_message(at: [*]const u8, length: usize) i32;
    extern "caxton" fn console_log(at: [*]const u8, length: usize) void;
    extern "caxton" fn console_error(at: [*]const u8, length: usize) void;
    extern "caxton" fn current_timestamp() i64;
    extern "caxton" fn random_u32() u32;
    extern "caxton" fn store_data(key: [*]const u8, key_length: usize, at: [*]const u8, length: usize) i32;
    extern "caxton" fn load_data(key: [*]const u8, key_length: usize, at: [*]u8, room: usize) i32;
    extern "caxton" fn delete_data(key: [*]const u8, key_length: usize) i32;
    extern "caxton" fn set_timer(number: u32, delay_us: i64) i32;
    extern "caxton" fn cancel_timer(number: u32) i32;
    extern "caxton" fn search_memory(query: [*]const u8, length: usize, limit: u32) i32;
    extern "caxton" fn store_memory(at: [*]const u8, length: usize) i32;
    extern "caxton" fn call_tool(name: [*]const u8, name_length: usize, at: [*]const u8, length: usize) i32;
    extern "caxton" fn take_answer(at: [*]u8, room: usize) i32;
};

/// A message that came in.
pub const Message = struct {
    id: []const u8 = "",
    performative: []const u8 = "",
    sender: []const u8 = "",
    conversation_id: []const u8 = "",
    content: std.json.Value = .null,

    /// The content as a type of yours.
    pub fn read(message: Message, memory: std.mem.Allocator, comptime T: type) !T {
        return std.json.parseFromValueLeaky(T, memory, message.content, .{ .ignore_unknown_fields = true });
    }
};

/// What a message is answered with: the content of an INFORM as JSON, or the reason of a FAILURE.
pub const Answer = union(enum) { inform: []const u8, failure: []const u8 };

pub fn inform(memory: std.mem.Allocator, content: anytype) !Answer {
    return .{ .inform = try text(memory, content) };
}

/// Send a message: performative, content, and receiver, capability or topic. Grant for others: messages.
pub fn send(memory: std.mem.Allocator, message: anytype) !void {
    const json = try text(memory, message);
    _ = host.send_message(json.ptr, json.len);
}

pub fn log(line: []const u8) void {
    host.console_log(line.ptr, line.len);
}

pub fn logError(line: []const u8) void {
    host.console_error(line.ptr, line.len);
}

/// Microseconds since 1970; the same during one call. Grant: clock.
pub fn nowUs() i64 {
    return host.current_timestamp();
}

/// Grant: random.
pub fn random() u32 {
    return host.random_u32();
}

/// Keep bytes; false when there is no room. Grant: state.
pub fn store(key: []const u8, value: []const u8) bool {
    return host.store_data(key.ptr, key.len, value.ptr, value.len) == 0;
}

/// Bytes that were kept. Grant: state.
pub fn load(memory: std.mem.Allocator, key: []const u8) ?[]const u8 {
    var room = memory.alloc(u8, 256) catch return null;
    while (true) {
        const found = host.load_data(key.ptr, key.len, room.ptr, room.len);
        if (found < 0) return null;
        const length: usize = @intCast(found);
        if (length <= room.len) return room[0..length];
        room = memory.alloc(u8, length) catch return null;
    }
}

/// Forget bytes; false when there were none. Grant: state.
pub fn delete(key: []const u8) bool {
    return host.delete_data(key.ptr, key.len) == 0;
}

/// Have `timer` called once; false when there are too many timers. Grant: timers.
pub fn setTimer(number: u32, delay_us: i64) bool {
    return host.set_timer(number, delay_us) == 0;
}

/// Grant: timers.
pub fn cancelTimer(number: u32) bool {
    return host.cancel_timer(number) == 0;
}

/// Texts of the memory, the best first. Grant: memory.
pub fn search(memory: std.mem.Allocator, query: []const u8, limit: u32) ![]const []const u8 {
    const found = try asked(memory, host.search_memory(query.ptr, query.len, limit));
    return std.json.parseFromSliceLeaky([]const []const u8, memory, found, .{});
}

/// Store a text in the memory; its id. Grant: memory.
pub fn remember(memory: std.mem.Allocator, line: []const u8) ![]const u8 {
    return asked(memory, host.store_memory(line.ptr, line.len));
}

/// Call a tool of the agent file with an object; its result. Grant: tools.
pub fn callTool(memory: std.mem.Allocator, name: []const u8, arguments: anytype) !std.json.Value {
    const given = try text(memory, arguments);
    const found = try asked(memory, host.call_tool(name.ptr, name.len, given.ptr, given.len));
    return std.json.parseFromSliceLeaky(std.json.Value, memory, found, .{});
}

/// Why the last of these three was `error.NotDone`.
pub fn whyNot(memory: std.mem.Allocator) ![]const u8 {
    return asked(memory, 0);
}

fn asked(memory: std.mem.Allocator, status: i32) ![]const u8 {
    if (status < 0) return error.NotDone;
    const length = host.take_answer(@constCast("".ptr), 0);
    const room = try memory.alloc(u8, @intCast(@max(0, length)));
    _ = host.take_answer(room.ptr, room.len);
    return room;
}

/// Export an agent: `offers`, `handle(memory, message)` and `timer(memory, number)`. The memory they get is
/// theirs until they return.
pub fn agent(comptime A: type) void {
    const exports = struct {
        var arena = std.heap.ArenaAllocator.init(std.heap.wasm_allocator);

        fn allocate(size: usize) callconv(.c) ?[*]u8 {
            _ = arena.reset(.retain_capacity);
            const room = arena.allocator().alloc(u8, size + 1) catch return null;
            return room.ptr;
        }

        fn initialise() callconv(.c) i32 {
            return 0;
        }

        fn handle(at: [*]const u8, length: usize) callconv(.c) i32 {
            answer(at[0..length]) catch |failed| return fail(failed);
            return 0;
        }

        fn answer(json: []const u8) !void {
            const memory = arena.allocator();
            const message = try std.json.parseFromSliceLeaky(Message, memory, json, .{ .ignore_unknown_fields = true });
            switch (try A.handle(memory, message)) {
                .inform => |content| {
                    const whole = try std.fmt.allocPrint(memory, "{{\"performative\":\"inform\",\"content\":{s}}}", .{content});
                    _ = host.send_message(whole.ptr, whole.len);
                },
                .failure => |reason| try send(memory, .{ .performative = "failure", .content = .{ .reason = reason } }),
            }
        }

        fn timer(number: u32) callconv(.c) i32 {
            _ = arena.reset(.retain_capacity);
            A.timer(arena.allocator(), number) catch |failed| return fail(failed);
            return 0;
        }

        fn fail(failed: anyerror) i32 {
            logError(@errorName(failed));
            return 1;
        }

        fn capabilities(at: [*]u8, room: usize) callconv(.c) usize {
            if (A.offers.len <= room) @memcpy(at[0..A.offers.len], A.offers);
            return A.offers.len;
        }
    };
    @export(&exports.allocate, .{ .name = "caxton_alloc" });
    @export(&exports.initialise, .{ .name = "agent_init" });
    @export(&exports.handle, .{ .name = "handle_message" });
    @export(&exports.timer, .{ .name = "handle_timer" });
    @export(&exports.capabilities, .{ .name = "get_capabilities" });
}

fn text(memory: std.mem.Allocator, value: anytype) ![]const u8 {
    return std.json.Stringify.valueAlloc(memory, value, .{});
}
