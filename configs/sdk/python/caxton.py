"""The world `caxton:agent@1.0.0` in Python. It is a copy: it belongs to this agent, and can be changed.

A component imports its whole world; asking for what the agent file does not grant ends the call.
"""

import json
import traceback

import wit_world
from componentize_py_types import Err
from wit_world.imports import clock, key_value, memory, messages, timers, tools
from wit_world.imports import config as parameters
from wit_world.imports import log as console
from wit_world.imports import random as chance


class Refused(Exception):
    """Raise it to answer with FAILURE and this reason; whatever else is raised ends the instance."""


class NotDone(Exception):
    """The memory or a tool has not done what it was asked for, and says why."""


class Agent(wit_world.WitWorld):
    """Name your subclass WitWorld: it is looked for by this name."""

    offers = ()
    """What it offers, where it is deployed without an agent file."""

    def handle(self, message):
        """Answer a message: return the content of an INFORM."""
        raise NotImplementedError

    def timer(self, number):
        """A timer is up."""

    def start(self):
        pass

    def handle_message(self, message):
        try:
            send(performative="inform", content=self.handle(json.loads(message)))
        except Refused as refused:
            send(performative="failure", content={"reason": str(refused)})
        except Exception as error:
            raise _told(error) from error

    def handle_timer(self, timer):
        try:
            self.timer(timer)
        except Exception as error:
            raise _told(error) from error

    def capabilities(self):
        return list(self.offers)

    def stop(self):
        pass


def _told(error):
    for line in traceback.format_exc().splitlines():
        log_error(line)
    return Err(f"{type(error).__name__}: {error}")


def send(**message):
    """Send performative, content, and receiver, capability or topic; without an address it is a reply."""
    if message.keys() <= {"performative", "content"}:
        messages.reply(message["performative"], json.dumps(message.get("content")))
    else:
        messages.send(json.dumps(message))  # grant: messages


def log(text):
    console.log(console.Level.INFO, text)


def log_error(text):
    console.log(console.Level.ERROR, text)


def now_us():
    """Microseconds since 1970; the same during one call. Grant: clock."""
    return clock.now()


def random():
    """A number of 32 bits. Grant: random."""
    return chance.draw()


def store(key, value):
    """Keep bytes. Grant: state."""
    key_value.set(key, value)


def load(key):
    """Bytes that were kept, or None. Grant: state."""
    return key_value.get(key)


def delete(key):
    """Forget bytes; whether there were any. Grant: state."""
    return key_value.delete(key)


def set_timer(number, delay_us):
    """Have `timer` called once. Grant: timers."""
    timers.set(number, delay_us)


def cancel_timer(number):
    """Whether it was running. Grant: timers."""
    return timers.cancel(number)


def search(query, limit=10):
    """Texts of the memory, the best first. Grant: memory."""
    return _asked(memory.search, query, limit)


def remember(text):
    """Store a text in the memory; returns its id. Grant: memory."""
    return _asked(memory.store, text)


def call_tool(name, **arguments):
    """Call a tool of the agent file; returns its result. Grant: tools."""
    return json.loads(_asked(tools.call, name, json.dumps(arguments)))


def _asked(ask, *arguments):
    try:
        return ask(*arguments)
    except Err as error:
        raise NotDone(getattr(error.value, "value", "there is no room")) from None


def parameter(name):
    """A value of the agent file's `parameters`, or None."""
    found = parameters.get(name)
    return None if found is None else json.loads(found)
