"""The page for browsers: tasks, the user's space, and what operators look at.

`sign_in` speaks with the issuer, `sessions` keeps users' tokens in the ledger's database, and `access` turns a session
into the caller that the API's handlers know, which are called in this process. A browser holds no token.
"""
