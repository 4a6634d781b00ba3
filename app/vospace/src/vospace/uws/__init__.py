"""The Universal Worker Service 1.1: jobs that live in PostgreSQL and are worked on by any process.

It is given kinds of jobs, with their limits, parameters and runners, and makes routers of job lists. Layers, from the
bottom: `model` (words), `tables` (schema), `store` (rows), `executor` (who runs what, on the engine `voservice.jobs`),
`service` (what a caller may do), `documents` (XML), `routes` (HTTP).
"""
