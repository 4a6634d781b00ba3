"""Tests of what this project deploys, against the deployed stack."""

from fixtures import anonymous as anonymous
from fixtures import http as http
from fixtures import rse as rse
from fixtures import stack as stack
from fixtures import user as user
