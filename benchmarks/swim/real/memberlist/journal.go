package main

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"sync"

	"github.com/hashicorp/memberlist"
	"golang.org/x/sys/unix"
)

// line is one line of the journal; peer.py says what the fields mean.
type line struct {
	Time    int64  `json:"t"`
	Event   string `json:"event"`
	Member  string `json:"member,omitempty"`
	Author  string `json:"author,omitempty"`
	Address string `json:"address,omitempty"`
	*counters
}

type counters struct {
	PacketsSent         int64   `json:"packets_sent"`
	PacketsLost         int64   `json:"packets_lost"`
	BytesSent           int64   `json:"bytes_sent"`
	PacketsReceived     int64   `json:"packets_received"`
	BytesReceived       int64   `json:"bytes_received"`
	StreamBytesSent     int64   `json:"stream_bytes_sent"`
	StreamBytesReceived int64   `json:"stream_bytes_received"`
	Streams             int64   `json:"streams"`
	CPU                 float64 `json:"cpu_s"`
	Late                float64 `json:"late_s"`
	Health              *int    `json:"health,omitempty"`
}

// journal appends lines to a file, one write each.
type journal struct {
	mutex sync.Mutex
	file  *os.File
}

func openJournal(path string) (*journal, error) {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	return &journal{file: file}, nil
}

func (j *journal) write(l line) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		panic(err) // every Linux has this clock
	}
	l.Time = now.Nano()
	text, err := json.Marshal(l)
	if err != nil {
		panic(err) // plain strings and numbers
	}
	j.mutex.Lock()
	defer j.mutex.Unlock()
	if _, err := j.file.Write(append(text, '\n')); err != nil {
		panic(err) // a journal with holes would be read as a member that missed something
	}
}

// eventWriter hears of members. No member of this benchmark leaves, so whoever goes has died.
type eventWriter struct {
	self    string
	journal *journal
}

func (e *eventWriter) NotifyJoin(node *memberlist.Node) {
	if node.Name != e.self {
		e.journal.write(line{Event: "joined", Member: node.Name})
	}
}

func (e *eventWriter) NotifyLeave(node *memberlist.Node) {
	e.journal.write(line{Event: "died", Member: node.Name})
}

func (e *eventWriter) NotifyUpdate(*memberlist.Node) {}

// logReader finds in memberlist's log what no delegate tells: whom this member accused after a
// failed probe of its own, and that it refuted. The log goes on to rest, debug lines excepted.
type logReader struct {
	name    string
	journal *journal
	rest    io.Writer
}

var (
	accusing = []byte("[INFO] memberlist: Suspect ")
	failed   = []byte(" has failed, no acks received")
	refuting = []byte("[WARN] memberlist: Refuting a ")
	debug    = []byte("[DEBUG]")
)

// Write takes one log entry; the log package makes one call for each.
func (l *logReader) Write(entry []byte) (int, error) {
	if _, tail, found := bytes.Cut(entry, accusing); found {
		if accused, _, found := bytes.Cut(tail, failed); found {
			l.journal.write(line{Event: "suspected", Member: string(accused), Author: l.name})
		}
	} else if bytes.Contains(entry, refuting) {
		l.journal.write(line{Event: "refuted", Member: l.name})
	}
	if bytes.Contains(entry, debug) {
		return len(entry), nil
	}
	return l.rest.Write(entry)
}
