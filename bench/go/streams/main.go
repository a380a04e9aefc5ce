// The Go toolkit that Millstream follows, on Kafka (kafka-go): its scheduler and a handler, with a commit for each message.
//
//	streams consume TOPIC COUNT
package main

import (
	"context"
	"fmt"
	"time"

	"github.com/alexandria-oss/streams"
	"github.com/alexandria-oss/streams/driver/kafka"
	client "github.com/segmentio/kafka-go"

	"millstream.test/bench/told"
)

func main() {
	mode, job, err := told.Arguments()
	if err == nil && mode != "consume" {
		err = fmt.Errorf("consume, not %q", mode)
	}
	if err == nil {
		err = consume(job)
	}
	told.Exit(err)
}

func consume(job told.Job) error {
	silent := client.LoggerFunc(func(string, ...any) {})
	reader := kafka.NewReader(kafka.ReaderConfig{ReaderConfig: client.ReaderConfig{
		Brokers:     []string{job.Broker},
		MaxWait:     100 * time.Millisecond,
		Logger:      silent,
		ErrorLogger: silent,
	}})
	arrivals := told.Expect(job.Messages)
	scheduler := streams.NewSubscriberScheduler(reader, make(streams.EventRegistry))
	scheduler.SubscribeTopic(job.Topic, func(_ context.Context, message streams.Message) error {
		return arrivals.Take(message.Data)
	}).SetArg(kafka.ReaderTaskGroupIDKey, told.Group())
	if err := scheduler.Start(); err != nil {
		return err
	}
	<-arrivals.Done
	return arrivals.Tell()
}
