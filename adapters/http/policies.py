"""Retention policies over HTTP: what is in force, what a change would do, changing it."""

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path

from adapters.clock import format_instant
from adapters.documents import version_document
from adapters.http.access import Someone, authorize, may_touch
from adapters.http.models import (
    AppliedView,
    ImpactView,
    NewVersion,
    PolicyList,
    PolicyView,
    Proposal,
)
from adapters.http.service import Service, micros, the_service
from adapters.settings import environment
from adapters.vault.summaries import check_aggregates
from domain.policy import RetentionPolicy, from_documents
from domain.use_cases import policies as use_case

router = APIRouter(prefix="/v1/policies", dependencies=[Depends(authorize)])

Here = Annotated[Service, Depends(the_service)]
PolicyName = Annotated[str, Path(pattern=r"^[a-z0-9_-]{1,40}$", examples=["reading-room"])]


@router.get("", response_model=PolicyList, operation_id="policies")
def list_policies(who: Someone, here: Here) -> Mapping[str, Any]:
    """Every policy this token may see, with all its versions."""
    known = here.lapse.policies.refresh()
    names = sorted(name for name in known if who.policies is None or name in who.policies)
    return {"policies": [_view(here, name) for name in names]}


@router.get("/{name}", response_model=PolicyView, operation_id="policy")
def show(name: PolicyName, who: Someone, here: Here) -> Mapping[str, Any]:
    """One policy with all its versions."""
    may_touch(who, name)
    return _view(here, name)


@router.put("/{name}", response_model=AppliedView, operation_id="apply-policy")
def apply(name: PolicyName, body: NewVersion, who: Someone, here: Here) -> Mapping[str, Any]:
    """Record a version: it takes effect 5 s from now, or later if it says so.

    Sessions that are open get their new deadlines at once; reads compute with it from the moment
    it takes effect.
    """
    may_touch(who, name)
    policy = _parsed(name, body.policy)
    now = here.now()
    log = here.lapse.log
    effective_from = micros(body.effective_from) if body.effective_from is not None else None
    version = use_case.apply(log, policy, now, who.actor, effective_from)
    known = here.lapse.policies.refresh()
    for _ in use_case.rearm(log, name, known[name], now):
        pass
    return {
        "name": name,
        "version": version.number if version is not None else None,
        "effective_from": format_instant(version.effective_from or None) if version else None,
    }


@router.post("/{name}/impact", response_model=ImpactView, operation_id="policy-impact")
def impact(name: PolicyName, body: Proposal, who: Someone, here: Here) -> Mapping[str, Any]:
    """What a version would change for sessions that are alive; nothing is written."""
    may_touch(who, name)
    return vars(use_case.impact(here.lapse.log, _parsed(name, body.policy), here.now()))


def _view(here: Service, name: str) -> dict[str, Any]:
    versions = here.versions(name)
    return {"name": name, "versions": [version_document(version) for version in versions]}


def _parsed(name: str, document: Mapping[str, Any]) -> RetentionPolicy:
    """Raises PolicyInvalid with the place of every problem."""
    policy = from_documents({"policy": {name: dict(document)}}, environment())[name]
    check_aggregates([policy])
    return policy
