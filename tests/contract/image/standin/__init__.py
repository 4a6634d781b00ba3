"""Stand-ins for OpenCADC's registry, POSIX mapper and Cavern, which answer as those are known to and in no other way.

They refuse what the real ones refuse, and do nothing else that the project's roles or worker could come to rely on.
"""
