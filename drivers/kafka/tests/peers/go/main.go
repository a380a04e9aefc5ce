// Writes and reads records with segmentio/kafka-go, beside Millstream: what one writes, the other has to read.
//
//	peer write BROKER TOPIC COUNT   writes that many records
//	peer read BROKER TOPIC COUNT    prints that many, a line of JSON each
package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/segmentio/kafka-go"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(arguments []string) error {
	if len(arguments) != 4 {
		return fmt.Errorf("usage: peer write|read BROKER TOPIC COUNT")
	}
	count, err := strconv.Atoi(arguments[3])
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	switch arguments[0] {
	case "write":
		return write(ctx, arguments[1], arguments[2], count)
	case "read":
		return read(ctx, arguments[1], arguments[2], count)
	}
	return fmt.Errorf("write or read, not %q", arguments[0])
}

// The same records as every other peer writes.
func write(ctx context.Context, broker, topic string, count int) error {
	writer := &kafka.Writer{
		Addr:         kafka.TCP(broker),
		Topic:        topic,
		Balancer:     kafka.Murmur2Balancer{},
		RequiredAcks: kafka.RequireAll,
		BatchTimeout: 10 * time.Millisecond,
	}
	var messages []kafka.Message
	for n := range count {
		message := kafka.Message{
			Key:     []byte(fmt.Sprintf("customer-%d", n%50)),
			Value:   []byte(fmt.Sprintf(`{"n":%d}`, n)),
			Headers: []kafka.Header{{Key: "tenant", Value: []byte("acme")}, {Key: "n", Value: []byte(strconv.Itoa(n))}},
		}
		if n%10 == 9 {
			message.Value = nil
		}
		messages = append(messages, message)
	}
	if err := writer.WriteMessages(ctx, messages...); err != nil {
		return err
	}
	return writer.Close()
}

type header struct {
	Name  string  `json:"name"`
	Value *string `json:"value"`
}

type record struct {
	Partition int      `json:"partition"`
	Key       *string  `json:"key"`
	Value     *string  `json:"value"`
	Headers   []header `json:"headers"`
}

func text(bytes []byte) *string {
	if bytes == nil {
		return nil
	}
	encoded := base64.StdEncoding.EncodeToString(bytes)
	return &encoded
}

func read(ctx context.Context, broker, topic string, count int) error {
	reader := kafka.NewReader(kafka.ReaderConfig{
		Brokers:     []string{broker},
		Topic:       topic,
		GroupID:     "peer-go-" + topic,
		StartOffset: kafka.FirstOffset,
		MaxWait:     100 * time.Millisecond,
	})
	for range count {
		message, err := reader.FetchMessage(ctx)
		if err != nil {
			return err
		}
		told := record{Partition: message.Partition, Key: text(message.Key), Value: text(message.Value)}
		for _, h := range message.Headers {
			told.Headers = append(told.Headers, header{h.Key, text(h.Value)})
		}
		line, err := json.Marshal(told)
		if err != nil {
			return err
		}
		fmt.Println(string(line))
	}
	return reader.Close()
}
