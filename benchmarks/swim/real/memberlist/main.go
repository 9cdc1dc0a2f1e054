// Command memberlistpeer is one process that is one member of a memberlist cluster, for
// benchmarks/swim/real: DefaultLANConfig unchanged, AES-256, a share of the sent packets lost,
// and everything it hears written as the JSON lines that peer.py writes.
//
// Standard input steers it: the first line says "join now", and its end says "end".
package main

import (
	"bufio"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/hashicorp/memberlist"
	"golang.org/x/sys/unix"
)

const (
	tick        = time.Second
	joinRetry   = time.Second
	healthTicks = 5 // as peer.py
)

type seedList []string

func (s *seedList) String() string { return strings.Join(*s, ",") }

func (s *seedList) Set(value string) error {
	*s = append(*s, value)
	return nil
}

func main() {
	var seeds seedList
	name := flag.String("name", "", "the member's name")
	flag.Var(&seeds, "seed", "HOST:PORT of a member, repeatable")
	loss := flag.Float64("loss", 0, "share of sent packets that is lost")
	randomSeed := flag.Int64("random-seed", 0, "decides which packets are lost")
	keys := flag.String("keys", "", "directory with the keys")
	journalPath := flag.String("journal", "", "file to append events to")
	flag.Parse()
	if err := run(*name, seeds, *loss, *randomSeed, *keys, *journalPath); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(name string, seeds []string, loss float64, randomSeed int64, keys, journalPath string) error {
	journal, err := openJournal(journalPath)
	if err != nil {
		return err
	}
	gossipKey, err := os.ReadFile(filepath.Join(keys, "gossip.key"))
	if err != nil {
		return err
	}
	logs := &logReader{name: name, journal: journal, rest: os.Stderr}
	transport, err := newLossyTransport(loss, randomSeed, name, logs)
	if err != nil {
		return err
	}
	config := memberlist.DefaultLANConfig()
	config.Name = name
	config.Transport = transport
	config.SecretKey = gossipKey
	config.Events = &eventWriter{self: name, journal: journal}
	config.LogOutput = logs
	list, err := memberlist.Create(config)
	if err != nil {
		return err
	}
	journal.write(line{Event: "ready", Address: list.LocalNode().Address()})
	go count(list, transport, journal)

	input := bufio.NewReader(os.Stdin)
	if _, err := input.ReadString('\n'); err != nil {
		return nil // the harness has gone
	}
	go join(list, seeds)
	_, err = io.Copy(io.Discard, input)
	return err
}

// join tries the seeds until one answers.
func join(list *memberlist.Memberlist, seeds []string) {
	for len(seeds) > 0 {
		if _, err := list.Join(seeds); err == nil {
			return
		}
		time.Sleep(joinRetry)
	}
}

// count writes the counters once a second, with how late this goroutine was woken.
func count(list *memberlist.Memberlist, transport *lossyTransport, journal *journal) {
	due := time.Now()
	for ticks := 0; ; ticks++ {
		due = due.Add(tick)
		time.Sleep(time.Until(due))
		late := time.Since(due)
		var used unix.Rusage
		if err := unix.Getrusage(unix.RUSAGE_SELF, &used); err != nil {
			panic(err) // cannot fail for RUSAGE_SELF
		}
		counters := transport.counters()
		counters.CPU = float64(used.Utime.Nano()+used.Stime.Nano()) / 1e9
		counters.Late = late.Seconds()
		if ticks%healthTicks == 0 {
			health := list.GetHealthScore()
			counters.Health = &health
		}
		journal.write(line{Event: "counters", counters: counters})
		if behind := time.Now().Add(-tick); due.Before(behind) {
			due = behind
		}
	}
}
