"""The DTOs every room shares, and the errors. Whoever is outside this room imports them from here, whichever file they
are in; who needs an error alone takes it from `core.errors`."""

from tasks.core.errors import *
from tasks.core.types.alert import *
from tasks.core.types.bars import *
from tasks.core.types.base import *
from tasks.core.types.decision import *
from tasks.core.types.limits import *
from tasks.core.types.money import *
from tasks.core.types.orders import *
from tasks.core.types.portfolio import *
from tasks.core.types.promotion import *
from tasks.core.types.question import *
from tasks.core.types.reconcile import *
from tasks.core.types.record import *
from tasks.core.types.snapshot import *
from tasks.core.types.strategy import *
from tasks.core.types.verdict import *
