// The world caxton:agent@1.0.0 in JavaScript. It is a copy: it belongs to this agent, and can be changed.
// A component imports its whole world; asking for what the agent file does not grant ends the call.
import * as clock from "caxton:agent/clock@1.0.0";
import * as config from "caxton:agent/config@1.0.0";
import * as keyValue from "caxton:agent/key-value@1.0.0";
import * as console_ from "caxton:agent/log@1.0.0";
import * as memory from "caxton:agent/memory@1.0.0";
import * as messages from "caxton:agent/messages@1.0.0";
import * as chance from "caxton:agent/random@1.0.0";
import * as timers from "caxton:agent/timers@1.0.0";
import * as tools from "caxton:agent/tools@1.0.0";

/** Throw it to answer with FAILURE and this reason; whatever else is thrown ends the instance. */
export class Refused extends Error {}

/** The memory or a tool has not done what it was asked for, and says why. */
export class NotDone extends Error {}

/** The exports of an agent: offers, handle(message) -> content, timer(number). */
export function agent({ offers = [], handle, timer = () => {} }) {
  return {
    start() {},
    handleMessage(text) {
      try {
        send({ performative: "inform", content: handle(JSON.parse(text)) });
      } catch (error) {
        if (!(error instanceof Refused)) throw told(error);
        send({ performative: "failure", content: { reason: error.message } });
      }
    },
    handleTimer(number) {
      try {
        timer(number);
      } catch (error) {
        throw told(error);
      }
    },
    capabilities: () => offers,
    stop() {},
  };
}

function told(error) {
  for (const line of String(error?.stack ?? "").split("\n")) if (line) logError(line);
  return String(error);
}

/** Send performative, content, and receiver, capability or topic; without an address it is a reply. */
export function send(message) {
  const addressed = message.receiver ?? message.capability ?? message.topic;
  if (addressed === undefined) messages.reply(message.performative, JSON.stringify(message.content ?? null));
  else messages.send(JSON.stringify(message)); // grant: messages
}

export const log = (text) => console_.log("info", text);
export const logError = (text) => console_.log("error", text);

/** Microseconds since 1970; the same during one call. Grant: clock. */
export const nowUs = () => Number(clock.now());

/** A number of 32 bits. Grant: random. */
export const random = () => chance.draw() >>> 0; // QuickJS takes it for a signed one

/** Keep a text. Grant: state. */
export const store = (key, value) => keyValue.set(key, encode(value));

/** A text that was kept, or undefined. Grant: state. */
export function load(key) {
  const found = keyValue.get(key);
  return found === undefined || found === null ? undefined : decode(found);
}

/** Forget a text; whether there was one. Grant: state. */
export const remove = (key) => keyValue.delete(key);

/** Have timer(number) called once. Grant: timers. */
export function setTimer(number, delayUs) {
  try {
    timers.set(number, delayUs); // QuickJS takes a number for a u64, SpiderMonkey a BigInt
  } catch (error) {
    if (!(error instanceof TypeError)) throw error;
    timers.set(number, BigInt(delayUs));
  }
}

/** Whether it was running. Grant: timers. */
export const cancelTimer = (number) => timers.cancel(number);

/** Texts of the memory, the best first. Grant: memory. */
export const search = (query, limit = 10) => asked(() => memory.search(query, limit));

/** Store a text in the memory; returns its id. Grant: memory. */
export const remember = (text) => asked(() => memory.store(text));

/** Call a tool of the agent file with an object; returns its result. Grant: tools. */
export const callTool = (name, given = {}) => JSON.parse(asked(() => tools.call(name, JSON.stringify(given))));

function asked(ask) {
  try {
    return ask();
  } catch (error) {
    const failure = error?.payload ?? error; // SpiderMonkey wraps it
    if (typeof failure?.tag !== "string") throw error;
    throw new NotDone(failure.val ?? "there is no room");
  }
}

/** A value of the agent file's parameters, or undefined. */
export function parameter(name) {
  const found = config.get(name);
  return found === undefined || found === null ? undefined : JSON.parse(found);
}

// UTF-8 by hand: the engine has no TextEncoder.
const encode = (text) => Uint8Array.from(unescape(encodeURIComponent(text)), (c) => c.charCodeAt(0));
const decode = (bytes) => decodeURIComponent(escape(String.fromCharCode(...bytes)));
