/* The interface of Caxton's core modules in C, without any library. It is a copy: it belongs to this agent, and
 * can be changed. What is imported must be granted in the agent file; what is not called is not imported.
 *
 * Include it once, and define caxton_handle, caxton_timer and CAXTON_OFFERS. Both functions return 0, or
 * another number when they cannot go on: what they sent and kept then never happened. */
#ifndef CAXTON_H
#define CAXTON_H

#include <stddef.h>
#include <stdint.h>

#define CAXTON_IMPORT(name) __attribute__((import_module("caxton"), import_name(name)))
#define CAXTON_EXPORT(name) __attribute__((export_name(name)))
#ifndef CAXTON_ROOM
#define CAXTON_ROOM 65536 /* longest message in, and longest message out; larger ones are refused */
#endif

typedef struct {
    const char *at;
    size_t length;
} caxton_text;

int caxton_handle(caxton_text message);
int caxton_timer(uint32_t number);

/* The host; grants are in brackets. */
CAXTON_IMPORT("console_log") void caxton_log(const char *at, size_t length);
CAXTON_IMPORT("console_error") void caxton_log_error(const char *at, size_t length);
CAXTON_IMPORT("current_timestamp") int64_t caxton_now_us(void);                            /* [clock] */
CAXTON_IMPORT("random_u32") uint32_t caxton_random(void);                                  /* [random] */
CAXTON_IMPORT("store_data") int caxton_store(const char *key, size_t, const void *, size_t); /* [state] */
CAXTON_IMPORT("load_data") int caxton_load(const char *key, size_t, void *, size_t room);  /* [state] */
CAXTON_IMPORT("delete_data") int caxton_delete(const char *key, size_t);                   /* [state] */
CAXTON_IMPORT("set_timer") int caxton_set_timer(uint32_t number, int64_t delay_us);        /* [timers] */
CAXTON_IMPORT("cancel_timer") int caxton_cancel_timer(uint32_t number);                    /* [timers] */
CAXTON_IMPORT("send_message") int caxton_send_message(const char *at, size_t length);      /* [messages] */

/* Asking the memory and tools: each returns the length of its answer, or a negative status. caxton_take then
 * writes the answer, or the reason why there is none, into a room if it fits, and returns its length. */
CAXTON_IMPORT("search_memory") int caxton_search(const char *query, size_t, uint32_t limit);   /* [memory] */
CAXTON_IMPORT("store_memory") int caxton_remember(const char *text, size_t);                   /* [memory] */
CAXTON_IMPORT("call_tool") int caxton_call_tool(const char *name, size_t, const char *json, size_t); /* [tools] */
CAXTON_IMPORT("take_answer") int caxton_take(void *, size_t room);

/* Reading JSON: the host sends it valid and without blanks between its tokens. */

static size_t caxton_skip(caxton_text json, size_t at) { /* where the value at `at` ends */
    int depth = 0;
    for (; at < json.length; at++) {
        char c = json.at[at];
        if (c == '"') {
            for (at++; at < json.length && json.at[at] != '"'; at++) at += json.at[at] == '\\';
        } else if (c == '{' || c == '[') {
            depth++;
        } else if ((c == '}' || c == ']' || c == ',') && depth == 0) {
            return at;
        } else if (c == '}' || c == ']') {
            depth--;
        }
    }
    return at < json.length ? at : json.length;
}

/* The value of a field of an object, as JSON; empty when there is none. */
static caxton_text caxton_field(caxton_text object, const char *name) {
    size_t at = 1, end, length = 0;
    while (name[length]) length++;
    if (object.length < 2 || object.at[0] != '{') return (caxton_text){0, 0};
    for (; at < object.length && object.at[at] == '"'; at = end + 1) {
        size_t key = at + 1, key_end = key;
        while (key_end < object.length && object.at[key_end] != '"') key_end += 1 + (object.at[key_end] == '\\');
        at = key_end + 2; /* behind the colon */
        end = caxton_skip(object, at);
        int same = key_end - key == length;
        for (size_t i = 0; same && i < length; i++) same = object.at[key + i] == name[i];
        if (same) return (caxton_text){object.at + at, end - at};
    }
    return (caxton_text){0, 0};
}

/* A string without its quotes, escapes as they are; empty for any other value. */
static inline caxton_text caxton_inside(caxton_text value) {
    if (value.length < 2 || value.at[0] != '"') return (caxton_text){0, 0};
    return (caxton_text){value.at + 1, value.length - 2};
}

/* A whole number; 0 for any other value. */
static inline uint64_t caxton_number(caxton_text value) {
    uint64_t found = 0;
    for (size_t i = 0; i < value.length && value.at[i] >= '0' && value.at[i] <= '9'; i++)
        found = found * 10 + (uint64_t)(value.at[i] - '0');
    return found;
}

/* Writing a message: begin, put the JSON of its content, send. */

static char caxton_out[CAXTON_ROOM];
static size_t caxton_out_length;

static inline void caxton_put_text(caxton_text text) {
    for (size_t i = 0; i < text.length; i++, caxton_out_length++)
        if (caxton_out_length < CAXTON_ROOM) caxton_out[caxton_out_length] = text.at[i];
}

static inline void caxton_put(const char *text) {
    size_t length = 0;
    while (text[length]) length++;
    caxton_put_text((caxton_text){text, length});
}

static inline void caxton_put_number(uint64_t number) {
    char digits[20];
    size_t at = sizeof digits;
    do digits[--at] = (char)('0' + number % 10);
    while ((number /= 10) > 0);
    caxton_put_text((caxton_text){digits + at, sizeof digits - at});
}

static inline void caxton_begin_to(const char *performative, caxton_text receiver) {
    caxton_out_length = 0;
    caxton_put("{\"performative\":\"");
    caxton_put(performative);
    if (receiver.length > 0) caxton_put("\",\"receiver\":"), caxton_put_text(receiver);
    else caxton_put("\"");
    caxton_put(",\"content\":");
}

static inline void caxton_begin(const char *performative) {
    caxton_begin_to(performative, (caxton_text){0, 0});
}

static inline int caxton_send(void) {
    caxton_put("}");
    return caxton_out_length > CAXTON_ROOM ? 1 : caxton_send_message(caxton_out, caxton_out_length);
}

static inline int caxton_fail(const char *reason) { /* a reason without quotes */
    caxton_begin("failure");
    caxton_put("{\"reason\":\"");
    caxton_put(reason);
    caxton_put("\"}");
    return caxton_send();
}

/* The exports. */

static char caxton_in[CAXTON_ROOM];

CAXTON_EXPORT("caxton_alloc") char *caxton_alloc(size_t size) { return size > CAXTON_ROOM ? 0 : caxton_in; }
CAXTON_EXPORT("agent_init") int caxton_init(void) { return 0; }
CAXTON_EXPORT("handle_message") int caxton_handle_message(const char *at, size_t length) {
    return caxton_handle((caxton_text){at, length});
}
CAXTON_EXPORT("handle_timer") int caxton_handle_timer(uint32_t number) { return caxton_timer(number); }

#define CAXTON_OFFERS(json)                                                          \
    CAXTON_EXPORT("get_capabilities") size_t caxton_offers(char *at, size_t room) {  \
        for (size_t i = 0; i < sizeof json - 1 && i < room; i++) at[i] = json[i];    \
        return sizeof json - 1;                                                      \
    }

#endif
