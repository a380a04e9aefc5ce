"""Writes and reads CloudEvents with the Python SDK of the CloudEvents project, beside Millstream.

    events.py write BROKER TOPIC MODE COUNT   writes that many events, in binary or structured mode
    events.py read BROKER TOPIC MODE COUNT    prints that many, a line of JSON each
"""

import json
import sys

from cloudevents.http import CloudEvent
from cloudevents.kafka import KafkaMessage, from_binary, from_structured, to_binary, to_structured
from confluent_kafka import Consumer, KafkaException, Producer


def write(broker, topic, mode, count):
    producer = Producer({"bootstrap.servers": broker, "partitioner": "murmur2_random", "acks": "all"})
    encode = {"binary": to_binary, "structured": to_structured}[mode]
    failed = []
    for n in range(count):
        attributes = {
            "id": f"id-{n}",
            "type": "order.placed",
            "source": "/python",
            "datacontenttype": "application/json",
            "partitionkey": f"customer-{n}",
            "tenant": "acme",
        }
        record = encode(CloudEvent(attributes, {"n": n}))
        headers = dict(record.headers)
        if mode == "structured":
            # The SDK names the type of the data here; the standard, that of the whole event.
            headers["content-type"] = b"application/cloudevents+json"
        producer.produce(
            topic,
            key=record.key,
            value=record.value,
            headers=list(headers.items()),
            on_delivery=lambda error, _: error and failed.append(error),
        )
    if producer.flush(60) > 0 or failed:
        raise KafkaException(failed)


def text(value):
    return value.decode() if isinstance(value, bytes) else value


def read(broker, topic, mode, count):
    consumer = Consumer(
        {"bootstrap.servers": broker, "group.id": f"events-python-{topic}", "auto.offset.reset": "earliest"}
    )
    consumer.subscribe([topic])
    decode = {"binary": from_binary, "structured": from_structured}[mode]
    for _ in range(count):
        record = consumer.poll(60)
        if record is None:
            raise SystemExit("nothing came within a minute")
        if record.error():
            raise KafkaException(record.error())
        event = decode(KafkaMessage(headers=dict(record.headers()), key=record.key(), value=record.value()))
        # In binary mode the SDK takes the partition key from the record's, as bytes.
        attributes = {name: text(value) for name, value in event.get_attributes().items()}
        print(json.dumps({"attributes": attributes, "data": event.get_data()}))
    consumer.close()


if __name__ == "__main__":
    way, broker, topic, mode, count = sys.argv[1:]
    {"write": write, "read": read}[way](broker, topic, mode, int(count))
