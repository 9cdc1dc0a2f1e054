// Greets by name, counts whom it has greeted, and reminds of it when it was asked to.
import * as caxton from "./caxton.js";

export const { start, handleMessage, handleTimer, capabilities, stop } = caxton.agent({
  offers: ["greeting"],

  handle({ sender, content }) {
    if (typeof content?.name !== "string") throw new caxton.Refused("content.name is missing");
    const count = Number(caxton.load("count") ?? 0) + 1;
    caxton.store("count", String(count));
    if (content.remind_after_ms !== undefined) {
      caxton.store("remind", sender);
      caxton.setTimer(1, content.remind_after_ms * 1000);
    }
    caxton.log(`greeted ${content.name}`);
    return {
      greeting: `Hello, ${content.name}!`,
      count,
      at_us: caxton.nowUs(),
      lucky: caxton.random() % 100,
    };
  },

  timer() {
    const who = caxton.load("remind");
    if (who === undefined) return;
    caxton.remove("remind");
    caxton.log("reminded");
    caxton.send({ performative: "inform", receiver: who, content: "Time to greet again." });
  },
});
