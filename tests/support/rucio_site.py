"""A Rucio server for tests: run by a Python that has Rucio, as `python rucio_site.py PORT`, with RUCIO_CONFIG set.

It makes its tables and the accounts, and serves. What else it holds comes by its API.
"""

import logging
import sys

from rucio.common.types import InternalAccount
from rucio.core.account import add_account
from rucio.core.vo import map_vo
from rucio.db.sqla.constants import AccountType
from rucio.db.sqla.session import get_session
from rucio.db.sqla.util import build_database, create_base_vo, create_root_account
from rucio.web.rest.flaskapi.v1.main import application
from werkzeug.serving import run_simple

logging.getLogger("werkzeug").setLevel(logging.WARNING)
build_database()
create_base_vo()
create_root_account()
session = get_session()()
for name in ("ada", "bob"):
    add_account(InternalAccount(name, vo=map_vo("def")), AccountType.USER, "", session=session)
session.commit()
run_simple("127.0.0.1", int(sys.argv[1]), application, threaded=True)
