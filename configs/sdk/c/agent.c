/* Greets by name, counts whom it has greeted, and reminds of it when it was asked to. */
#include "caxton.h"

CAXTON_OFFERS("[\"greeting\"]")

static unsigned count_up(void) {
    unsigned count = 0;
    caxton_load("count", 5, &count, sizeof count);
    count += 1;
    caxton_store("count", 5, &count, sizeof count);
    return count;
}

int caxton_handle(caxton_text message) {
    caxton_text content = caxton_field(message, "content");
    caxton_text name = caxton_inside(caxton_field(content, "name"));
    caxton_text delay_ms = caxton_field(content, "remind_after_ms");
    if (name.length == 0) return caxton_fail("content.name is missing");
    unsigned count = count_up();
    if (delay_ms.length > 0) {
        caxton_text sender = caxton_field(message, "sender");
        caxton_store("remind", 6, sender.at, sender.length);
        caxton_set_timer(1, (int64_t)caxton_number(delay_ms) * 1000);
    }
    caxton_log(name.at, name.length);
    caxton_begin("inform");
    caxton_put("{\"greeting\":\"Hello, ");
    caxton_put_text(name);
    caxton_put("!\",\"count\":");
    caxton_put_number(count);
    caxton_put(",\"at_us\":");
    caxton_put_number((uint64_t)caxton_now_us());
    caxton_put(",\"lucky\":");
    caxton_put_number(caxton_random() % 100);
    caxton_put("}");
    return caxton_send();
}

int caxton_timer(uint32_t number) {
    (void)number; /* there is one */
    char who[256];
    int length = caxton_load("remind", 6, who, sizeof who);
    if (length < 0 || length > (int)sizeof who) return 0;
    caxton_delete("remind", 6);
    caxton_log("reminded", 8);
    caxton_begin_to("inform", (caxton_text){who, (size_t)length});
    caxton_put("\"Time to greet again.\"");
    return caxton_send();
}
