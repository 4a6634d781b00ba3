# Every command a person needs. Each one makes the environment it runs in, when that is missing or out of date.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
export ANSIBLE_CONFIG := $(CURDIR)/ansible.cfg
# A locale that every Debian has: Ansible refuses one that is missing, or knows ASCII alone.
export LC_ALL := C.UTF-8
# The shell's own Ansible and Python are others.
unexport ANSIBLE_COLLECTIONS_PATH ANSIBLE_COLLECTIONS_PATHS PYTHONHOME PYTHONPATH

VENV := .venv
PLAYBOOK := $(VENV)/bin/ansible-playbook
# That of this machine's own engine, or of one that is not on this machine.
INVENTORY ?= $(eval INVENTORY := $$(shell bin/inventory))$(INVENTORY)
# Whose token or certificate; the shell's own USER is nobody's choice.
USER :=
# What targets take as arguments is none of the recipes' environment: Ansible would take USER for whoever runs it.
unexport APPLY ARGS BACKUP INVENTORY JSON SERVICE SINCE TASK USER WATCH
# Asks for the password that sudo wants on this machine, if it wants one.
BECOME = $(if $(filter inventory/local inventory/desktop,$(INVENTORY)),$(shell [ "$$(id -u)" = 0 ] || sudo -n true 2>&- || echo --ask-become-pass))
RUN = $(PLAYBOOK) -i "$(INVENTORY)"
PLAY = $(RUN) $(BECOME) $(ARGS)
# Whoever may talk to this machine's engine looks without being root.
LOOK = $(RUN) $(if $(filter inventory/desktop,$(INVENTORY)),,$(if $(shell [ -w /var/run/docker.sock ] || echo root),$(BECOME))) $(ARGS)
# Prints what a playbook says, and nothing of how it came about: all else that Ansible and its plugins print is no output.
QUIET := 3>&1 1>&2 CAVERN_MESSAGES_DESCRIPTOR=3 ANSIBLE_STDOUT_CALLBACK=skasrc.cavern.messages
# Runs what the playbook prints, with a terminal if there is one here.
OPEN = command=$$($(QUIET) $(LOOK) playbooks/shell.yml -e shell_service=$(1) \
	-e '{"shell_program": $(2), "shell_terminal": '$$(tty -s && echo true || echo false)'}'); eval "exec $$command"
# Written last, so that a broken installation is made again.
DEPLOY := $(VENV)/.deploy
DEV := $(VENV)/.dev
KUBERNETES := $(VENV)/.kubernetes
# Writing for a cluster takes what any deployment does; APPLY=true takes a client of the cluster's too.
WRITE = $(RUN) $(ARGS) $(if $(APPLY),-e kubernetes_apply=$(APPLY))

# Of the directory that was given, whatever directory a play works in.
SAVED = $$(realpath --canonicalize-missing --no-symlinks -- "$(BACKUP)")

.PHONY: help up test smoke status logs token down purge test-all lint unit stack contract test-kubernetes docs bench lock kubernetes kubernetes-secrets kubernetes-backup kubernetes-restore chart check certificate revoke compose backup restore upgrade shell psql dev check-token sign-in

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-18s %s\n", $$1, $$2}'

# An environment that came here with a copied or moved checkout goes on using the one that it was made for.
ifneq ($(shell sed -n 's/^command = .* -m venv //p' $(VENV)/pyvenv.cfg 2>&-),$(CURDIR)/$(VENV))
$(DEPLOY) $(KUBERNETES) $(DEV): elsewhere
.PHONY: elsewhere
endif

$(DEPLOY): requirements/deploy.txt requirements/uv.txt bin/environment app/prepare_data_client/pyproject.toml
	@bin/environment deploy

$(KUBERNETES): requirements/kubernetes.txt requirements/deploy.txt bin/environment app/prepare_data_client/pyproject.toml
	@bin/environment kubernetes
	@touch $(KUBERNETES)

$(DEV): requirements/dev.txt requirements/deploy.txt bin/environment $(wildcard app/*/pyproject.toml)
	@bin/environment dev
	@touch $(DEPLOY) $(KUBERNETES) $(DEV)

up: $(DEPLOY) ## Deploy everything and stage a file through it
	@$(PLAY) site.yml playbooks/smoke.yml
	@$(QUIET) $(PLAY) playbooks/status.yml -e status_updates=false

smoke: $(DEPLOY) ## Run the smoke test against the deployed stack
	@$(PLAY) playbooks/smoke.yml

status: $(DEPLOY) ## Show each service's state and health, and the endpoints; JSON=true for programs, WATCH=5 every 5 s
	@look() { $(QUIET) $(LOOK) playbooks/status.yml $(if $(JSON),-e status_json=$(JSON)) "$$@"; }; \
	colour=false; [ ! -t 1 ] || [ -n "$${NO_COLOR:-}" ] || colour=true; \
	$(if $(WATCH),trap 'exit 130' INT; while text=$$(look -e status_updates=false -e status_colour=$$colour) || [ -n "$$text" ]; do \
	[ ! -t 1 ] || tput clear; printf '%s\n' "$$text"; sleep $(WATCH); done,look -e status_colour=$$colour)

logs: $(DEPLOY) ## Show the logs of all services, interleaved: make logs TASK=<id> SINCE=15m
	@$(QUIET) $(LOOK) playbooks/logs.yml $(if $(TASK),-e logs_task=$(TASK)) $(if $(SINCE),-e logs_since=$(SINCE))

shell: $(DEPLOY) ## Open a shell in a service's container: make shell SERVICE=cavern
	@$(call OPEN,$(SERVICE),["bash"])

psql: $(DEPLOY) ## Open psql at a database service: make psql SERVICE=postgres_posixmapper (srcnodedb by default)
	@$(call OPEN,$(or $(SERVICE),srcnodedb),["psql"])

dev: $(DEPLOY) ## Run a service from this checkout's code, reloaded on change: make dev SERVICE=cavern
	@$(PLAY) playbooks/dev.yml -e dev_service=$(SERVICE)

down: $(DEPLOY) ## Remove the containers, keep the data
	@$(PLAY) playbooks/down.yml

purge: $(DEPLOY) ## Remove all but data and images (ARGS="-e purge_data=true -e purge_images=true" for those)
	@$(PLAY) playbooks/purge.yml

check: $(DEPLOY) ## Show what a run would change
	@$(PLAY) site.yml --check --diff

# A bearer token and nothing else on standard output.
token: $(DEPLOY) ## Print a bearer token: make token USER=ada
	@$(QUIET) $(RUN) $(ARGS) playbooks/token.yml $(if $(USER),-e user=$(USER))

sign-in: $(DEPLOY) ## Print a one-time code with which a user signs in at the page: make sign-in USER=ada
	@$(QUIET) $(RUN) $(ARGS) playbooks/sign_in.yml $(if $(USER),-e user=$(USER))

# The token comes by standard input: what is given as an argument is for everybody on the machine to see.
check-token: $(DEPLOY) ## Show what the services make of the issuer and of a token: make token USER=ada | make check-token
	@export CAVERN_TOKEN=; [ -t 0 ] || CAVERN_TOKEN=$$(cat); $(QUIET) $(LOOK) playbooks/check_token.yml

compose: $(DEPLOY) ## Write the deployment as state/docker-compose.yml
	@$(PLAY) playbooks/compose.yml

kubernetes: $(if $(APPLY),$(KUBERNETES),$(DEPLOY)) ## Write the deployment for Kubernetes, for kubectl apply -k; APPLY=true applies it
	@$(WRITE) playbooks/kubernetes.yml

kubernetes-secrets: $(if $(APPLY),$(KUBERNETES),$(DEPLOY)) ## Write the secrets and authorities that those objects refer to; APPLY=true applies them
	@$(WRITE) playbooks/kubernetes_secrets.yml

chart: $(DEPLOY) ## Write the deployment as a chart of Helm
	@$(RUN) $(ARGS) playbooks/chart.yml

kubernetes-backup: $(KUBERNETES) ## Save the deployment in a cluster below backups/
	@$(RUN) $(ARGS) playbooks/kubernetes_backup.yml

kubernetes-restore: $(KUBERNETES) ## Bring a backup into a cluster: make kubernetes-restore BACKUP=backups/…
	@$(RUN) $(ARGS) playbooks/kubernetes_restore.yml -e "backup_source='$(SAVED)'"

certificate: $(DEPLOY) ## Issue an X.509 client certificate: make certificate USER=ada
	@$(PLAY) playbooks/client_certificate.yml $(if $(USER),-e user=$(USER))

revoke: $(DEPLOY) ## Revoke all client certificates of a user: make revoke USER=ada
	@$(PLAY) playbooks/revoke.yml $(if $(USER),-e user=$(USER))

upgrade: $(DEPLOY) ## Bring a running deployment up to date, one service at a time, with a way back
	@$(PLAY) playbooks/upgrade.yml

backup: $(DEPLOY) ## Save the running deployment below backups/
	@$(PLAY) playbooks/backup.yml

restore: $(DEPLOY) ## Bring a backup back into a purged machine: make restore BACKUP=backups/…
	@$(PLAY) playbooks/restore.yml -e "backup_source='$(SAVED)'"

test: ## Everything that CI runs: lint, unit tests, a deployment and the tests against it
	@bin/test

test-all: ## The same, and the tests that take long
	@bin/test all

lint: $(DEV) ## Lint and type-check everything
	@bin/lint

unit: $(DEV) ## The tests that need no deployment
	@bin/unit $(ARGS)

stack: $(DEV) ## The tests against a deployment of their own, or that of CAVERN_TEST_INVENTORY
	@$(VENV)/bin/pytest tests/stack tests/security $(ARGS)

test-kubernetes: $(DEV) ## The tests of the chart, and of a cluster that it is installed in
	@$(VENV)/bin/pytest tests/kubernetes $(ARGS)

contract: $(DEV) ## The tests of a second deployment, with stand-ins for OpenCADC's services
	@$(VENV)/bin/pytest tests/contract $(ARGS)

docs: $(DEV) ## Build the documentation as a site, in build/docs/html
	@bin/docs

bench: $(DEV) ## Measure against named peers
	@CAVERN_TEST_INVENTORY=$${CAVERN_TEST_INVENTORY:-$(INVENTORY)} $(VENV)/bin/python -m bench $(ARGS)

lock: $(DEV) ## Pin the newest versions that the ranges allow
	@bin/lock-images
	@bin/lock-environment
