// Greets by name, counts whom it has greeted, and reminds of it when it was asked to.
package main

import (
	"errors"
	"strconv"

	"greeter/caxton"
)

type request struct {
	Name          string `json:"name"`
	RemindAfterMs *int64 `json:"remind_after_ms"`
}

type answer struct {
	Greeting string `json:"greeting"`
	Count    int    `json:"count"`
	AtUs     int64  `json:"at_us"`
	Lucky    uint32 `json:"lucky"`
}

func init() {
	caxton.Offers = []string{"greeting"}
	caxton.Handle = handle
	caxton.Timer = timer
}

func handle(message *caxton.Message) (any, error) {
	var asked request
	if err := message.Read(&asked); err != nil || asked.Name == "" {
		return nil, errors.New("content.name is missing")
	}
	count := countUp()
	if asked.RemindAfterMs != nil {
		caxton.Store("remind", message.Sender)
		caxton.SetTimer(1, *asked.RemindAfterMs*1000)
	}
	caxton.Log("greeted " + asked.Name)
	return answer{"Hello, " + asked.Name + "!", count, caxton.NowUs(), caxton.Random() % 100}, nil
}

func timer(_ uint32) {
	if who, found := caxton.Load("remind"); found {
		caxton.Delete("remind")
		caxton.Log("reminded")
		caxton.Send(caxton.Outgoing{Performative: "inform", Receiver: who, Content: "Time to greet again."})
	}
}

func countUp() int {
	text, _ := caxton.Load("count")
	count, _ := strconv.Atoi(text)
	caxton.Store("count", strconv.Itoa(count+1))
	return count + 1
}

func main() {} // never called: a module is a library
