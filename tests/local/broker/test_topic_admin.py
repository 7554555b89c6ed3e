"""Topics and their settings, as admin clients make, ask and change them."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import pytest
from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import (
    InvalidConfigurationError,
    InvalidPartitionsError,
    InvalidReplicationFactorError,
    InvalidTopicError,
    TopicAlreadyExistsError,
    UnknownTopicOrPartitionError,
)
from kafka.protocol.admin import CreateTopicsRequest, DeleteTopicsRequest
from kafka.protocol.metadata import MetadataRequest
from raw_client import RawClient

from tenuto import local
from tenuto.local.broker.errors import Code

pytestmark = pytest.mark.stack
MakeTopic = Callable[..., str]


def settings(admin: KafkaAdminClient, topic: str) -> dict[str, Any]:
    asked = [ConfigResource(ConfigResourceType.TOPIC, topic)]
    found: dict[str, Any] = admin.describe_configs(asked, config_filter="all")["topic"][topic]
    return found


def wanted(partitions: int = 1, replicas: int = 1, **configs: str) -> dict[str, Any]:
    return {
        "num_partitions": partitions,
        "replication_factor": replicas,
        "configs": {key.replace("_", "."): value for key, value in configs.items()},
    }


@pytest.mark.parametrize(
    ("topic", "error"),
    [
        (wanted(partitions=0), InvalidPartitionsError),
        (wanted(replicas=2), InvalidReplicationFactorError),
        (wanted(retention_ms="soon"), InvalidConfigurationError),
        (wanted(retention_msec="1"), InvalidConfigurationError),
    ],
)
def test_a_topic_that_cannot_be_is_refused(
    admin: KafkaAdminClient, new_name: str, topic: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        admin.create_topics({new_name: topic})
    assert new_name not in admin.list_topics()


@pytest.mark.parametrize("name", ["", "..", "a b", "x" * 250, "ü"])
def test_a_name_that_cannot_be_is_refused(admin: KafkaAdminClient, name: str) -> None:
    with pytest.raises(InvalidTopicError):
        admin.create_topics({name: wanted()})


def test_a_topic_is_made_once_and_its_name_not_almost_twice(
    admin: KafkaAdminClient, make_topic: MakeTopic
) -> None:
    topic = make_topic()
    with pytest.raises(TopicAlreadyExistsError):
        admin.create_topics({topic: wanted()})
    dotted = f"{topic}.x"
    admin.create_topics({dotted: wanted()})
    with pytest.raises(InvalidTopicError):
        admin.create_topics({f"{topic}_x": wanted()})


def test_without_numbers_a_topic_has_the_brokers_partitions(
    stack: local.LocalStack, admin: KafkaAdminClient, new_name: str
) -> None:
    admin.create_topics([new_name], wait_for_metadata=True)
    (described,) = admin.describe_topics([new_name])
    assert len(described["partitions"]) == 4


def test_a_validated_topic_is_not_made(admin: KafkaAdminClient, new_name: str) -> None:
    admin.create_topics({new_name: wanted()}, validate_only=True)
    assert new_name not in admin.list_topics()


@pytest.mark.parametrize("version", range(2, 8))
def test_topics_are_made_and_deleted_in_every_version(
    bootstrap: str, admin: KafkaAdminClient, version: int
) -> None:
    name = f"v-{uuid.uuid4().hex[:8]}"
    topic_class = CreateTopicsRequest.CreatableTopic
    creation = CreateTopicsRequest(
        topics=[
            topic_class(
                name=name, num_partitions=2, replication_factor=1, assignments=[], configs=[]
            )
        ],
        timeout_ms=10_000,
        validate_only=False,
    )
    deletion = DeleteTopicsRequest(
        topics=[DeleteTopicsRequest.DeleteTopicState(name=name, topic_id=uuid.UUID(int=0))],
        topic_names=[name],
        timeout_ms=10_000,
    )
    with RawClient(bootstrap) as client:
        assert client.ask(creation, version).topics[0].error_code == Code.NONE
        admin.wait_for_topics([name])
        assert client.ask(deletion, version - 1).responses[0].error_code == Code.NONE


@pytest.mark.parametrize("version", range(13))
def test_metadata_tells_of_topics_in_every_version(
    bootstrap: str, make_topic: MakeTopic, version: int
) -> None:
    topic = make_topic(partitions=2)
    asked = [
        MetadataRequest.MetadataRequestTopic(name=name, topic_id=uuid.UUID(int=0))
        for name in (topic, "nothing")
    ]
    with RawClient(bootstrap) as client:
        answer = client.ask(MetadataRequest(topics=asked, allow_auto_topic_creation=True), version)
        found, missing = sorted(answer.topics, key=lambda each: each.name == "nothing")
        assert (found.name, found.error_code, len(found.partitions)) == (topic, Code.NONE, 2)
        assert {one.leader_id for one in found.partitions} == {answer.brokers[0].node_id}
        assert missing.error_code == Code.UNKNOWN_TOPIC_OR_PARTITION
        everything = client.ask(
            MetadataRequest(topics=[] if version == 0 else None, allow_auto_topic_creation=True),
            version,
        )
        names = {each.name for each in everything.topics}
        assert topic in names
        assert "nothing" not in names


def test_a_topic_of_the_same_name_has_another_id(
    admin: KafkaAdminClient, new_name: str, bootstrap: str
) -> None:
    ids = []
    for _ in range(2):
        admin.create_topics({new_name: wanted()}, wait_for_metadata=True)
        (described,) = admin.describe_topics([new_name])
        ids.append(uuid.UUID(str(described["topic_id"])))
        admin.delete_topics([new_name])
        while new_name in admin.list_topics():
            pass
    assert ids[0] != ids[1]
    assert uuid.UUID(int=0) not in ids
    with RawClient(bootstrap) as client:
        asked = MetadataRequest.MetadataRequestTopic(name=None, topic_id=ids[0])
        answer = client.ask(MetadataRequest(topics=[asked], allow_auto_topic_creation=False), 12)
        assert answer.topics[0].error_code == Code.UNKNOWN_TOPIC_ID
    with pytest.raises(UnknownTopicOrPartitionError):
        admin.delete_topics([new_name])


def test_settings_are_told_with_where_they_are_from(
    admin: KafkaAdminClient, make_topic: MakeTopic
) -> None:
    topic = make_topic(retention_bytes="123456")
    found = settings(admin, topic)
    own, default = found["retention.bytes"], found["max.message.bytes"]
    assert (own["value"], own["config_source"]) == ("123456", "DYNAMIC_TOPIC_CONFIG")
    assert (default["value"], default["config_source"]) == ("1048588", "DEFAULT_CONFIG")


def test_every_setting_of_apache_kafkas_is_known(
    admin: KafkaAdminClient, make_topic: MakeTopic, embedded: local.LocalStack
) -> None:
    theirs = settings(admin, make_topic())
    with KafkaAdminClient(bootstrap_servers=embedded.bootstrap) as ours_admin:
        name = f"s-{uuid.uuid4().hex[:8]}"
        ours_admin.create_topics({name: wanted()}, wait_for_metadata=True)
        ours = settings(ours_admin, name)
    internal = {key for key in theirs if key.startswith("errors.deadletterqueue")}
    assert set(theirs) - internal <= set(ours)


def test_settings_are_changed_one_by_one_and_checked(
    admin: KafkaAdminClient, make_topic: MakeTopic
) -> None:
    topic = make_topic(retention_ms="1000000", max_message_bytes="5000")

    def change(**configs: Any) -> str:
        changed = {key.replace("_", "."): value for key, value in configs.items()}
        return str(admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, changed)]))

    change(retention_ms="2000000", cleanup_policy="compact,delete")
    found = settings(admin, topic)
    assert found["retention.ms"]["value"] == "2000000"
    assert found["cleanup.policy"]["value"] == "compact,delete"
    assert found["max.message.bytes"]["value"] == "5000"
    assert "InvalidConfiguration" in change(retention_ms="soon")
    assert settings(admin, topic)["retention.ms"]["value"] == "2000000"


def test_a_topic_grows_and_never_shrinks(admin: KafkaAdminClient, make_topic: MakeTopic) -> None:
    topic = make_topic(partitions=2)
    admin.create_partitions({topic: 3})
    while len(admin.describe_topics([topic])[0]["partitions"]) != 3:
        pass
    for fewer in (1, 3):
        with pytest.raises(InvalidPartitionsError):
            admin.create_partitions({topic: fewer})
