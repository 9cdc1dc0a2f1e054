package main

import (
	"fmt"
	"hash/fnv"
	"io"
	"log"
	"math/rand"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"
)

const bindAttempts = 32

// lossyTransport is memberlist's own NetTransport; it loses a share of the packets it is to send,
// leaves streams alone, and counts both.
type lossyTransport struct {
	*memberlist.NetTransport

	loss    float64
	mutex   sync.Mutex // guards random
	random  *rand.Rand
	packets chan *memberlist.Packet
	streams chan net.Conn

	packetsSent, packetsLost, bytesSent          atomic.Int64
	packetsReceived, bytesReceived               atomic.Int64
	streamBytesSent, streamBytesReceived, opened atomic.Int64
}

// newLossyTransport binds TCP and UDP to one free port of 127.0.0.1.
func newLossyTransport(loss float64, seed int64, name string, logs io.Writer) (*lossyTransport, error) {
	config := &memberlist.NetTransportConfig{
		BindAddrs: []string{"127.0.0.1"},
		Logger:    log.New(logs, "", log.LstdFlags),
	}
	var err error
	for range bindAttempts {
		var inner *memberlist.NetTransport
		if inner, err = memberlist.NewNetTransport(config); err != nil {
			continue // UDP may be taken where TCP was free
		}
		own := fnv.New64a()
		_, _ = fmt.Fprintf(own, "%d/%s", seed, name)
		transport := &lossyTransport{
			NetTransport: inner,
			loss:         loss,
			random:       rand.New(rand.NewSource(int64(own.Sum64()))),
			packets:      make(chan *memberlist.Packet),
			streams:      make(chan net.Conn),
		}
		go transport.passPackets()
		go transport.passStreams()
		return transport, nil
	}
	return nil, err
}

func (t *lossyTransport) WriteTo(b []byte, address string) (time.Time, error) {
	return t.WriteToAddress(b, memberlist.Address{Addr: address})
}

func (t *lossyTransport) WriteToAddress(b []byte, address memberlist.Address) (time.Time, error) {
	t.packetsSent.Add(1)
	t.bytesSent.Add(int64(len(b)))
	if t.isLost() {
		t.packetsLost.Add(1)
		return time.Now(), nil
	}
	return t.NetTransport.WriteToAddress(b, address)
}

func (t *lossyTransport) DialTimeout(address string, timeout time.Duration) (net.Conn, error) {
	return t.DialAddressTimeout(memberlist.Address{Addr: address}, timeout)
}

func (t *lossyTransport) DialAddressTimeout(address memberlist.Address, timeout time.Duration) (net.Conn, error) {
	connection, err := t.NetTransport.DialAddressTimeout(address, timeout)
	if err != nil {
		return nil, err
	}
	return t.count(connection), nil
}

func (t *lossyTransport) PacketCh() <-chan *memberlist.Packet { return t.packets }

func (t *lossyTransport) StreamCh() <-chan net.Conn { return t.streams }

func (t *lossyTransport) passPackets() {
	for packet := range t.NetTransport.PacketCh() {
		t.packetsReceived.Add(1)
		t.bytesReceived.Add(int64(len(packet.Buf)))
		t.packets <- packet
	}
}

func (t *lossyTransport) passStreams() {
	for connection := range t.NetTransport.StreamCh() {
		t.streams <- t.count(connection)
	}
}

func (t *lossyTransport) isLost() bool {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	return t.random.Float64() < t.loss
}

func (t *lossyTransport) count(connection net.Conn) net.Conn {
	t.opened.Add(1)
	return &countedConn{Conn: connection, transport: t}
}

func (t *lossyTransport) counters() *counters {
	return &counters{
		PacketsSent:         t.packetsSent.Load(),
		PacketsLost:         t.packetsLost.Load(),
		BytesSent:           t.bytesSent.Load(),
		PacketsReceived:     t.packetsReceived.Load(),
		BytesReceived:       t.bytesReceived.Load(),
		StreamBytesSent:     t.streamBytesSent.Load(),
		StreamBytesReceived: t.streamBytesReceived.Load(),
		Streams:             t.opened.Load(),
	}
}

// countedConn is a connection whose bytes are counted.
type countedConn struct {
	net.Conn
	transport *lossyTransport
}

func (c *countedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.transport.streamBytesReceived.Add(int64(n))
	return n, err
}

func (c *countedConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.transport.streamBytesSent.Add(int64(n))
	return n, err
}
