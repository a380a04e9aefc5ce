"""Speaks to SQS, SNS and DynamoDB with boto3, beside Millstream: what one writes, the other has to read.

    boto.py write ENDPOINT QUEUE            writes messages to a queue, as docs/wire.md has them
    boto.py publish ENDPOINT TOPIC          the same, to a topic of SNS
    boto.py read ENDPOINT QUEUE COUNT       reads that many from a queue, and deletes them
    boto.py send ENDPOINT QUEUE             sends what has nothing of Millstream; prints the ids that SQS gave
    boto.py handle ENDPOINT TABLE GROUP ID… writes the rows of handled messages, as the Go toolkit does
    boto.py look ENDPOINT TABLE GROUP ID…   prints whether each row is there, which is what the Go toolkit goes by

Messages come and go as lines of JSON. What `send` takes are the arguments of boto3's `send_message`, bytes as base64.
"""

import base64
import json
import re
import sys
import time
from datetime import datetime, timezone
from urllib.parse import quote

import boto3

OWN = {
    "id": "streams-message-id",
    "topic": "streams-stream-name",
    "key": "streams-stream-key",
    "type": "streams-content-type",
    "time": "streams-message-time",
}
BODY = "millstream-body"
FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")
PATIENCE = 20


def client(service, endpoint):
    return boto3.client(
        service,
        endpoint_url=endpoint,
        region_name="eu-west-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )


def lines():
    return [json.loads(line) for line in sys.stdin]


def pack(data):
    """A payload as a body, and what says how it is written."""
    if data is None:
        return "-", "null"
    data = base64.b64decode(data)
    if not data:
        return "-", "empty"
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = None
    if text is None or FORBIDDEN.search(text):
        return base64.b64encode(data).decode(), "base64"
    return text, None


def unpack(body, marker):
    match marker:
        case "null":
            return None
        case "empty":
            return ""
        case "base64":
            return body
    return base64.b64encode(body.encode()).decode()


def millis(time):
    return str(time)


def rfc3339(time):
    text = datetime.fromtimestamp(time / 1000, timezone.utc).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def entry(number, message, body_name, time_text, fifo):
    """A message as an entry of a batch."""
    body, marker = pack(message["data"])
    texts = {OWN[part]: message[part] for part in ("id", "topic", "key", "type") if message[part]}
    texts[OWN["time"]] = time_text(message["time"])
    if marker:
        texts[BODY] = marker
    texts |= dict(message["headers"])
    attributes = {name: {"DataType": "String", "StringValue": text} for name, text in texts.items()}
    entry = {"Id": str(number), body_name: body, "MessageAttributes": attributes}
    if fifo:
        entry |= {"MessageGroupId": quote(message["key"]), "MessageDeduplicationId": message["id"]}
    return entry


def batches(entries):
    return [entries[first : first + 10] for first in range(0, len(entries), 10)]


def check(answer):
    if answer.get("Failed"):
        raise SystemExit(f"entries were refused: {answer['Failed']}")


def write(endpoint, queue):
    sqs = client("sqs", endpoint)
    url = sqs.get_queue_url(QueueName=queue)["QueueUrl"]
    fifo = queue.endswith(".fifo")
    entries = [entry(n, message, "MessageBody", millis, fifo) for n, message in enumerate(lines())]
    for batch in batches(entries):
        check(sqs.send_message_batch(QueueUrl=url, Entries=batch))


def publish(endpoint, topic):
    sns = client("sns", endpoint)
    arn = sns.create_topic(Name=topic)["TopicArn"]
    entries = [entry(n, message, "Message", rfc3339, False) for n, message in enumerate(lines())]
    for batch in batches(entries):
        check(sns.publish_batch(TopicArn=arn, PublishBatchRequestEntries=batch))


def told(message):
    texts = {name: value["StringValue"] for name, value in message.get("MessageAttributes", {}).items()}
    told = {part: texts.pop(name, None) for part, name in OWN.items()}
    told["data"] = unpack(message["Body"], texts.pop(BODY, None))
    told["headers"] = sorted(texts.items())
    told["group"] = message["Attributes"].get("MessageGroupId")
    told["once"] = message["Attributes"].get("MessageDeduplicationId")
    return told


def read(endpoint, queue, count):
    sqs = client("sqs", endpoint)
    url = sqs.get_queue_url(QueueName=queue)["QueueUrl"]
    left, until = int(count), time.monotonic() + PATIENCE
    while left:
        if time.monotonic() > until:
            raise SystemExit(f"{left} of {count} did not come within {PATIENCE} s")
        answer = sqs.receive_message(
            QueueUrl=url,
            MaxNumberOfMessages=min(left, 10),
            WaitTimeSeconds=1,
            MessageAttributeNames=["All"],
            MessageSystemAttributeNames=["All"],
        )
        for message in answer.get("Messages", []):
            print(json.dumps(told(message)))
            sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
            left -= 1


def send(endpoint, queue):
    sqs = client("sqs", endpoint)
    url = sqs.get_queue_url(QueueName=queue)["QueueUrl"]
    for arguments in lines():
        for value in arguments.get("MessageAttributes", {}).values():
            if "BinaryValue" in value:
                value["BinaryValue"] = base64.b64decode(value["BinaryValue"])
        print(sqs.send_message(QueueUrl=url, **arguments)["MessageId"])


def handle(endpoint, table, group, *ids):
    dynamodb = client("dynamodb", endpoint)
    expires = int(time.time()) + 3600
    for id in ids:
        item = {"worker_id": {"S": group}, "message_id": {"S": id}, "expiration_time": {"N": str(expires)}}
        dynamodb.put_item(TableName=table, Item=item)


def look(endpoint, table, group, *ids):
    dynamodb = client("dynamodb", endpoint)
    for id in ids:
        key = {"worker_id": {"S": group}, "message_id": {"S": id}}
        print(json.dumps("Item" in dynamodb.get_item(TableName=table, Key=key, ConsistentRead=True)))


if __name__ == "__main__":
    ways = {one.__name__: one for one in (write, publish, read, send, handle, look)}
    ways[sys.argv[1]](*sys.argv[2:])
