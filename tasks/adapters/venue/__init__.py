"""What the files of this room share; each dialect and venue takes it from here."""

from tasks.adapters.venue.account import *
from tasks.adapters.venue.client import *
from tasks.adapters.venue.dialect import *
from tasks.adapters.venue.market import *
from tasks.adapters.venue.meaning import *
from tasks.adapters.venue.wire import *
