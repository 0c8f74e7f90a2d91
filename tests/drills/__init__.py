"""Outage drills: real processes, something taken away from them for a minute, and a look at what must hold."""
