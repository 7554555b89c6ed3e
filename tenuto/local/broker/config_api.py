"""Settings: DescribeConfigs, IncrementalAlterConfigs and AlterConfigs, for topics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kafka.protocol.admin import (
    AlterConfigsResponse,
    DescribeConfigsResponse,
    IncrementalAlterConfigsResponse,
)

from tenuto.local.broker.call import Call
from tenuto.local.broker.errors import Code, RefusedError
from tenuto.local.broker.node import NODE_ID, Node
from tenuto.local.broker.topic_settings import SETTINGS, Type, check, items
from tenuto.local.broker.topics import Topic

DYNAMIC_TOPIC_CONFIG = 1
STATIC_BROKER_CONFIG = 4
DEFAULT_CONFIG = 5

_TOPIC, _BROKER = 2, 4
_SET, _DELETE, _APPEND, _SUBTRACT = range(4)

_Result = DescribeConfigsResponse.DescribeConfigsResult
_Config = _Result.DescribeConfigsResourceResult


def describe_configs(node: Node, request: Any, call: Call) -> Any:
    """DescribeConfigs: every setting of a topic, and where its value is from."""
    results = []
    for resource in request.resources:
        code, message, configs = Code.NONE, None, []
        try:
            if resource.resource_type == _BROKER and resource.resource_name in ("", str(NODE_ID)):
                configs = _broker_configs(node)
            else:
                topic = _topic(node, resource.resource_type, resource.resource_name)
                configs = _topic_configs(topic, synonyms=bool(request.include_synonyms))
        except RefusedError as error:
            code, message = error.code, error.message
        wanted = resource.configuration_keys
        results.append(
            _Result(
                error_code=code,
                error_message=message,
                resource_type=resource.resource_type,
                resource_name=resource.resource_name,
                configs=[one for one in configs if wanted is None or one.name in wanted],
            )
        )
    return DescribeConfigsResponse(throttle_time_ms=0, results=results)


def _topic_configs(topic: Topic, *, synonyms: bool) -> list[Any]:
    configs = []
    for name, setting in SETTINGS.items():
        values = [(setting.default, DEFAULT_CONFIG)]
        if name in topic.settings:
            values.insert(0, (topic.settings[name], DYNAMIC_TOPIC_CONFIG))
        configs.append(_config(name, values, setting.type, synonyms=synonyms))
    return configs


def _broker_configs(node: Node) -> list[Any]:
    told = {
        "auto.create.topics.enable": ("false", Type.BOOLEAN),
        "default.replication.factor": ("1", Type.INT),
        "node.id": (str(NODE_ID), Type.INT),
        "num.partitions": (str(node.topics.partitions_default), Type.INT),
    }
    return [
        _config(name, [(value, STATIC_BROKER_CONFIG)], type, synonyms=False, read_only=True)
        for name, (value, type) in told.items()
    ]


def _config(
    name: str,
    values: list[tuple[str, int]],
    type: Type,
    *,
    synonyms: bool,
    read_only: bool = False,
) -> Any:
    value, source = values[0]
    return _Config(
        name=name,
        value=value,
        read_only=read_only,
        config_source=source,
        is_default=source == DEFAULT_CONFIG,
        is_sensitive=False,
        synonyms=[
            _Config.DescribeConfigsSynonym(name=name, value=value, source=source)
            for value, source in (values if synonyms else [])
        ],
        config_type=type,
        documentation=None,
    )


def incremental_alter_configs(node: Node, request: Any, call: Call) -> Any:
    """IncrementalAlterConfigs: some settings, the others stay."""

    def changed(topic: Topic, configs: list[Any]) -> dict[str, str | None]:
        settings: dict[str, str | None] = dict(topic.settings)
        for config in configs:
            settings[config.name] = _operated(settings, config)
            if config.config_operation == _DELETE:
                del settings[config.name]
        return settings

    return _altered(node, request, IncrementalAlterConfigsResponse, changed)


def alter_configs(node: Node, request: Any, call: Call) -> Any:
    """AlterConfigs: these settings, the others fall back to their defaults."""
    return _altered(
        node,
        request,
        AlterConfigsResponse,
        lambda _, configs: {config.name: config.value for config in configs},
    )


def _altered(node: Node, request: Any, response_class: Any, changed: Any) -> Any:
    results = []
    for resource in request.resources:
        code, message = Code.NONE, None
        try:
            topic = _topic(node, resource.resource_type, resource.resource_name)
            settings = check(changed(topic, resource.configs))
            if not request.validate_only:
                topic.configure(settings)
        except RefusedError as error:
            code, message = error.code, error.message
        results.append(
            response_class.AlterConfigsResourceResponse(
                error_code=code,
                error_message=message,
                resource_type=resource.resource_type,
                resource_name=resource.resource_name,
            )
        )
    return response_class(throttle_time_ms=0, responses=results)


def _operated(settings: Mapping[str, str | None], config: Any) -> str | None:
    operation: int = config.config_operation
    name: str = config.name
    value: str | None = config.value
    if operation in (_APPEND, _SUBTRACT):
        setting = SETTINGS.get(name)
        if setting is None or setting.type is not Type.LIST:
            raise RefusedError(
                Code.INVALID_CONFIG, f"Config value append or subtract is not allowed for {name}"
            )
        now, given = items(settings.get(name) or setting.default), items(value or "")
        if operation == _APPEND:
            return ",".join(now + [item for item in given if item not in now])
        return ",".join(item for item in now if item not in given)
    if operation not in (_SET, _DELETE):
        raise RefusedError(Code.INVALID_REQUEST, f"Unknown operation {operation}")
    return value


def _topic(node: Node, resource_type: int, name: str) -> Topic:
    if resource_type != _TOPIC:
        raise RefusedError(
            Code.INVALID_REQUEST, f"Resource type {resource_type}: only topics have settings here"
        )
    topic = node.topics.get(name)
    if topic is None:
        raise RefusedError(Code.UNKNOWN_TOPIC_OR_PARTITION, "The topic does not exist.")
    return topic
