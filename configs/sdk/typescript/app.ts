// Greets by name, counts whom it has greeted, and reminds of it when it was asked to.
import * as caxton from "./caxton.js";

interface Request {
  name?: unknown;
  remind_after_ms?: number;
}

export const { start, handleMessage, handleTimer, capabilities, stop } = caxton.agent({
  offers: ["greeting"],

  handle({ sender, content }: caxton.Message): object {
    const { name, remind_after_ms: delayMs } = (content ?? {}) as Request;
    if (typeof name !== "string") throw new caxton.Refused("content.name is missing");
    const count = Number(caxton.load("count") ?? 0) + 1;
    caxton.store("count", String(count));
    if (delayMs !== undefined) {
      caxton.store("remind", sender);
      caxton.setTimer(1, delayMs * 1000);
    }
    caxton.log(`greeted ${name}`);
    return { greeting: `Hello, ${name}!`, count, at_us: caxton.nowUs(), lucky: caxton.random() % 100 };
  },

  timer(): void {
    const who = caxton.load("remind");
    if (who === undefined) return;
    caxton.remove("remind");
    caxton.log("reminded");
    caxton.send({ performative: "inform", receiver: who, content: "Time to greet again." });
  },
});
