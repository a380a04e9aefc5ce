// Package told has what the peers in Go have in common: what they decode, how they measure and what they tell.
package told

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Reading is what is in the topics.
type Reading struct {
	ID       uint64 `json:"id"`
	Quantity uint32 `json:"quantity"`
	Sensor   string `json:"sensor"`
	Note     string `json:"note"`
}

// Sample is a reading of 100 bytes.
var Sample = Reading{1_000_000, 37, "s0000001", "amber pump north valve steady cold seven br"}

// Job is what the arguments say: a topic and how many messages.
type Job struct {
	Broker, Topic string
	Messages      int
}

// Arguments reads them: MODE TOPIC COUNT.
func Arguments() (string, Job, error) {
	broker := os.Getenv("MILLSTREAM_KAFKA")
	if len(os.Args) != 4 || broker == "" {
		return "", Job{}, fmt.Errorf("usage: MILLSTREAM_KAFKA=BROKER %s MODE TOPIC COUNT", os.Args[0])
	}
	count, err := strconv.Atoi(os.Args[3])
	return os.Args[1], Job{broker, os.Args[2], count}, err
}

// Group is one that nobody had before.
func Group() string {
	return fmt.Sprintf("bench-%d-%d", os.Getpid(), time.Now().UnixNano())
}

// Watch measures from its making on.
type Watch struct {
	begun time.Time
	cpu   time.Duration
}

func usage() (time.Duration, int64) {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		panic(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano()), usage.Maxrss
}

// Start starts one.
func Start() Watch {
	cpu, _ := usage()
	return Watch{time.Now(), cpu}
}

type duration struct {
	Secs  int64 `json:"secs"`
	Nanos int64 `json:"nanos"`
}

func of(d time.Duration) duration {
	return duration{int64(d / time.Second), int64(d % time.Second)}
}

// Tell prints what passed, as the programs in Rust do.
func (w Watch) Tell() error {
	wall := time.Since(w.begun)
	cpu, peak := usage()
	return json.NewEncoder(os.Stdout).Encode(map[string]any{
		"took":     map[string]duration{"wall": of(wall), "cpu": of(cpu - w.cpu)},
		"latency":  nil,
		"peak_kib": peak,
	})
}

// Arrivals counts, and measures from the first message on.
type Arrivals struct {
	wanted int64
	count  atomic.Int64
	first  sync.Once
	watch  Watch
	// Done is closed by the last message.
	Done chan struct{}
}

// Expect makes one.
func Expect(wanted int) *Arrivals {
	return &Arrivals{wanted: int64(wanted), Done: make(chan struct{})}
}

// Take decodes a message and counts it.
func (a *Arrivals) Take(data []byte) error {
	a.first.Do(func() { a.watch = Start() })
	var reading Reading
	if err := json.Unmarshal(data, &reading); err != nil {
		return err
	}
	if a.count.Add(1) == a.wanted {
		close(a.Done)
	}
	return nil
}

// Tell prints what passed since the first message.
func (a *Arrivals) Tell() error {
	return a.watch.Tell()
}

// Exit ends the program as an error says.
func Exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
