"""Writes and reads records with confluent-kafka, beside Millstream: what one writes, the other has to read.

    peer.py write BROKER TOPIC COUNT   writes that many records
    peer.py read BROKER TOPIC COUNT    prints that many, a line of JSON each
"""

import base64
import json
import sys

from confluent_kafka import Consumer, KafkaException, Producer


def write(broker, topic, count):
    """The same records as every other peer writes."""
    failed = []
    producer = Producer({"bootstrap.servers": broker, "partitioner": "murmur2_random", "acks": "all"})
    for n in range(count):
        producer.produce(
            topic,
            key=f"customer-{n % 50}",
            value=None if n % 10 == 9 else json.dumps({"n": n}, separators=(",", ":")),
            headers=[("tenant", b"acme"), ("n", str(n).encode())],
            on_delivery=lambda error, _: error and failed.append(error),
        )
    if producer.flush(60) > 0 or failed:
        raise KafkaException(failed)


def text(value):
    return None if value is None else base64.b64encode(value).decode()


def read(broker, topic, count):
    consumer = Consumer(
        {"bootstrap.servers": broker, "group.id": f"peer-python-{topic}", "auto.offset.reset": "earliest"}
    )
    consumer.subscribe([topic])
    for _ in range(count):
        record = consumer.poll(60)
        if record is None:
            raise SystemExit("nothing came within a minute")
        if record.error():
            raise KafkaException(record.error())
        headers = [{"name": name, "value": text(value)} for name, value in record.headers() or []]
        told = {
            "partition": record.partition(),
            "key": text(record.key()),
            "value": text(record.value()),
            "headers": headers,
        }
        print(json.dumps(told))
    consumer.close()


if __name__ == "__main__":
    way, broker, topic, count = sys.argv[1:]
    {"write": write, "read": read}[way](broker, topic, int(count))
