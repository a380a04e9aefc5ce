// kafka-go, the client under the Go toolkit that Millstream follows, in the loop of that toolkit's reader: fetch, handle,
// commit, one message after the other. The toolkit itself does more around it.
//
//	kafkago consume TOPIC COUNT
package main

import (
	"context"
	"fmt"
	"time"

	"github.com/segmentio/kafka-go"

	"millstream.test/bench/told"
)

func main() {
	mode, job, err := told.Arguments()
	if err == nil && mode != "consume" {
		err = fmt.Errorf("consume, not %q", mode)
	}
	if err == nil {
		err = consume(context.Background(), job)
	}
	told.Exit(err)
}

func consume(ctx context.Context, job told.Job) error {
	reader := kafka.NewReader(kafka.ReaderConfig{
		Brokers: []string{job.Broker},
		Topic:   job.Topic,
		GroupID: told.Group(),
		MaxWait: 100 * time.Millisecond,
	})
	arrivals := told.Expect(job.Messages)
	for range job.Messages {
		message, err := reader.FetchMessage(ctx)
		if err != nil {
			return err
		}
		if err := arrivals.Take(message.Value); err != nil {
			return err
		}
		if err := reader.CommitMessages(ctx, message); err != nil {
			return err
		}
	}
	if err := arrivals.Tell(); err != nil {
		return err
	}
	return reader.Close()
}
