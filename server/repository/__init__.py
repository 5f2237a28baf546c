"""Which versions serve now, and how they come and go without a request noticing.

`repository.py` is what the rest of the server sees (a `Catalog`); `rounds.py` decides and loads, `turnover.py` switches
and retires, `snapshot.py` and `index.py` are what readers look at.
"""

from server.repository.options import Options
from server.repository.repository import Repository
from server.repository.served import Served, Service
from server.repository.turnover import Observer

__all__ = ["Observer", "Options", "Repository", "Served", "Service"]
