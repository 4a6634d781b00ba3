"""The Universal Worker Service 1.1: jobs that live in PostgreSQL and are worked on by any process.

Layers, from the bottom: `model` (words), `tables` (schema), `store` (rows), `notices` (LISTEN), `executor`
(who runs what, leases), `service` (what a caller may do), `documents` (XML), `routes` (HTTP).
"""
