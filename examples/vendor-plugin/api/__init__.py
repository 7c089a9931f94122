"""A folder called api, as many repositories have one: it must not disturb deviceplugin's."""

NAME = "acme's own api"
