module millstream.test/bench

go 1.25

require (
	github.com/IBM/sarama v1.48.2
	github.com/ThreeDotsLabs/watermill v1.5.2
	github.com/ThreeDotsLabs/watermill-kafka/v3 v3.1.2
	github.com/alexandria-oss/streams v0.0.1-alpha.8
	github.com/alexandria-oss/streams/driver/kafka v0.0.1-alpha.4
	github.com/segmentio/kafka-go v0.4.39
)
