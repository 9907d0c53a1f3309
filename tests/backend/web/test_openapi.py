"""The description of the HTTP interface says what the application does: no route more, none less."""

import re

from schemathesis.openapi import from_dict

from backend.web.openapi import document

# Not for machines: styles and scripts of the pages, and the page that says that there is no such page.
PAGES_ONLY = {"/favicon.ico", "/dashboard/static/{filename}", "/dashboard/{elsewhere}"}


def test_the_description_names_the_routes_and_methods_of_the_application(client):
    rules = {
        (re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule), method)
        for rule in client.application.url_map.iter_rules()
        for method in rule.methods - {"HEAD", "OPTIONS"}
    }
    described = {
        (path, method.upper())
        for path, operations in document()["paths"].items()
        for method in operations
        if method != "parameters"
    }
    assert described == {(path, method) for path, method in rules if path not in PAGES_ONLY}


def test_the_description_is_valid_openapi():
    from_dict(document()).validate()


def test_every_operation_is_explained_and_belongs_to_a_part():
    tags = {tag["name"] for tag in document()["tags"]}
    for path, operations in document()["paths"].items():
        for method, operation in operations.items():
            if method != "parameters":
                assert operation["summary"], (path, method)
                assert set(operation["tags"]) <= tags, (path, method)


def test_the_description_is_served(client):
    assert client.get("/openapi.json").json == document()
