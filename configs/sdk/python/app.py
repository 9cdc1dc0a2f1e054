"""Greets by name, counts whom it has greeted, and reminds of it when it was asked to."""

import caxton


class WitWorld(caxton.Agent):
    offers = ("greeting",)

    def handle(self, message):
        content = message["content"]
        if not isinstance(content, dict) or not isinstance(content.get("name"), str):
            raise caxton.Refused("content.name is missing")
        count = int(caxton.load("count") or b"0") + 1
        caxton.store("count", str(count).encode())
        if "remind_after_ms" in content:
            caxton.store("remind", message["sender"].encode())
            caxton.set_timer(1, content["remind_after_ms"] * 1000)
        caxton.log("greeted " + content["name"])
        return {
            "greeting": f"Hello, {content['name']}!",
            "count": count,
            "at_us": caxton.now_us(),
            "lucky": caxton.random() % 100,
        }

    def timer(self, number):
        who = caxton.load("remind")
        if who is not None:
            caxton.delete("remind")
            caxton.log("reminded")
            caxton.send(performative="inform", receiver=who.decode(), content="Time to greet again.")
