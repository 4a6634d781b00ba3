"""Jobs in a table of PostgreSQL, worked on by any number of processes.

A job is a row. A process *claims* it, which gives it a *lease*: until that time the job is the process's own. It
*renews* the lease while it works, and *releases* what it cannot end before it stops. A process that dies does neither:
its leases run out, and the next claim of the job is one more *attempt*. `leases` holds the statements, `executor` the
loops of a process; what a job is, how it ends, and how many attempts it has are matters of those who use them.
"""

from voservice.jobs.executor import DATABASE_ERRORS, Executor, Queue, repeat
from voservice.jobs.leases import LeaseLost, LeaseTable

__all__ = ["DATABASE_ERRORS", "Executor", "LeaseLost", "LeaseTable", "Queue", "repeat"]
