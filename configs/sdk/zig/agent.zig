//! Greets by name, counts whom it has greeted, and reminds of it when it was asked to.
const std = @import("std");
const caxton = @import("caxton.zig");

comptime {
    caxton.agent(Greeter);
}

const Greeter = struct {
    pub const offers = "[\"greeting\"]";

    pub fn handle(memory: std.mem.Allocator, message: caxton.Message) !caxton.Answer {
        const asked = message.read(memory, struct {
            name: []const u8,
            remind_after_ms: ?i64 = null,
        }) catch return .{ .failure = "content.name is missing" };
        const count = countUp(memory);
        if (asked.remind_after_ms) |delay_ms| {
            _ = caxton.store("remind", message.sender);
            _ = caxton.setTimer(1, delay_ms * 1000);
        }
        caxton.log(try std.fmt.allocPrint(memory, "greeted {s}", .{asked.name}));
        return caxton.inform(memory, .{
            .greeting = try std.fmt.allocPrint(memory, "Hello, {s}!", .{asked.name}),
            .count = count,
            .at_us = caxton.nowUs(),
            .lucky = caxton.random() % 100,
        });
    }

    pub fn timer(memory: std.mem.Allocator, _: u32) !void {
        const who = caxton.load(memory, "remind") orelse return;
        _ = caxton.delete("remind");
        caxton.log("reminded");
        try caxton.send(memory, .{ .performative = "inform", .receiver = who, .content = "Time to greet again." });
    }

    fn countUp(memory: std.mem.Allocator) u64 {
        const kept = caxton.load(memory, "count") orelse "0";
        const count = (std.fmt.parseInt(u64, kept, 10) catch 0) + 1;
        var room: [20]u8 = undefined;
        _ = caxton.store("count", std.fmt.bufPrint(&room, "{d}", .{count}) catch unreachable);
        return count;
    }
};
