// Watermill on Kafka (watermill-kafka, on sarama): publishing in batches of 100, and a subscriber that acknowledges each
// message.
//
//	watermill publish|consume TOPIC COUNT
package main

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill-kafka/v3/pkg/kafka"
	"github.com/ThreeDotsLabs/watermill/message"

	"millstream.test/bench/told"
)

func main() {
	mode, job, err := told.Arguments()
	if err == nil {
		switch mode {
		case "publish":
			err = publish(job)
		case "consume":
			err = consume(job)
		default:
			err = fmt.Errorf("publish or consume, not %q", mode)
		}
	}
	told.Exit(err)
}

const batch = 100

func publish(job told.Job) error {
	config := kafka.DefaultSaramaSyncPublisherConfig()
	config.Producer.RequiredAcks = sarama.WaitForAll
	publisher, err := kafka.NewPublisher(kafka.PublisherConfig{
		Brokers:               []string{job.Broker},
		OverwriteSaramaConfig: config,
	}, watermill.NopLogger{})
	if err != nil {
		return err
	}
	watch := told.Start()
	for first := 0; first < job.Messages; first += batch {
		messages := make([]*message.Message, batch)
		for i := range messages {
			data, err := json.Marshal(told.Sample)
			if err != nil {
				return err
			}
			messages[i] = message.NewMessage(watermill.NewUUID(), data)
		}
		if err := publisher.Publish(job.Topic, messages...); err != nil {
			return err
		}
	}
	if err := watch.Tell(); err != nil {
		return err
	}
	return publisher.Close()
}

func consume(job told.Job) error {
	config := kafka.DefaultSaramaSubscriberConfig()
	config.Consumer.Offsets.Initial = sarama.OffsetOldest
	subscriber, err := kafka.NewSubscriber(kafka.SubscriberConfig{
		Brokers:               []string{job.Broker},
		ConsumerGroup:         told.Group(),
		OverwriteSaramaConfig: config,
	}, watermill.NopLogger{})
	if err != nil {
		return err
	}
	messages, err := subscriber.Subscribe(context.Background(), job.Topic)
	if err != nil {
		return err
	}
	arrivals := told.Expect(job.Messages)
	for {
		select {
		case one := <-messages:
			if err := arrivals.Take(one.Payload); err != nil {
				return err
			}
			one.Ack()
		case <-arrivals.Done:
			if err := arrivals.Tell(); err != nil {
				return err
			}
			return subscriber.Close()
		}
	}
}
