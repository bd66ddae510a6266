"""An OctoPrint plugin that keeps each event, as a line of JSON, in the file that EVENT_LOG names: what OctoPrint itself says happened."""

import os
import time

import octoprint.plugin
from octoprint.util.json import dumps


class EventLog(octoprint.plugin.EventHandlerPlugin):
    def on_event(self, event, payload):
        with open(os.environ["EVENT_LOG"], "a", encoding="utf-8") as log:
            log.write(dumps({"time": time.time(), "event": event, "payload": payload}) + "\n")


__plugin_name__ = "Event log"
__plugin_pythoncompat__ = ">=3.7,<4"
__plugin_implementation__ = EventLog()
