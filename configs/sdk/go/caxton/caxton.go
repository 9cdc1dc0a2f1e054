// Package caxton is the interface of Caxton's core modules in Go. It is a copy: it belongs to this agent,
// and can be changed. What is imported must be granted in the agent file; what is not called is not imported.
package caxton

import (
	"encoding/json"
	"errors"
	"unsafe"
)

// Handle answers a message: the content of an INFORM, or the reason of a FAILURE.
var Handle func(*Message) (any, error)

// Timer is called when a timer is up.
var Timer = func(number uint32) {}

// Offers is what the agent offers, where it is deployed without an agent file.
var Offers = []string{}

// Message is one that came in.
type Message struct {
	ID             string          `json:"id"`
	Performative   string          `json:"performative"`
	Sender         string          `json:"sender"`
	ConversationID string          `json:"conversation_id"`
	Content        json.RawMessage `json:"content"`
}

// Read decodes the content.
func (message *Message) Read(into any) error { return json.Unmarshal(message.Content, into) }

// Outgoing is a message to be sent; without an address it is a reply.
type Outgoing struct {
	Performative string `json:"performative"`
	Receiver     string `json:"receiver,omitempty"`
	Capability   string `json:"capability,omitempty"`
	Topic        string `json:"topic,omitempty"`
	Content      any    `json:"content"`
}

// Send sends a message. Grant for others: messages.
func Send(message Outgoing) {
	text, err := json.Marshal(message)
	if err != nil {
		panic(err)
	}
	sendMessage(unsafe.Pointer(unsafe.SliceData(text)), uint32(len(text)))
}

// Log writes a line to the agent's log, as does every write to os.Stdout and os.Stderr.
func Log(text string) { consoleLog(pointer(text), uint32(len(text))) }

// NowUs is the time in microseconds since 1970; the same during one call. Grant: clock.
func NowUs() int64 { return currentTimestamp() }

// Random draws a number. Grant: random.
func Random() uint32 { return randomU32() }

// Store keeps a text; false when there is no room. Grant: state.
func Store(key, value string) bool {
	return storeData(pointer(key), uint32(len(key)), pointer(value), uint32(len(value))) == 0
}

// Load is a text that was kept. Grant: state.
func Load(key string) (string, bool) {
	room := make([]byte, 256)
	for {
		length := loadData(pointer(key), uint32(len(key)), unsafe.Pointer(&room[0]), uint32(len(room)))
		if length < 0 {
			return "", false
		}
		if int(length) <= len(room) {
			return string(room[:length]), true
		}
		room = make([]byte, length)
	}
}

// Delete forgets a text; false when there was none. Grant: state.
func Delete(key string) bool { return deleteData(pointer(key), uint32(len(key))) == 0 }

// SetTimer has Timer called once; false when there are too many timers. Grant: timers.
func SetTimer(number uint32, delayUs int64) bool { return setTimer(number, delayUs) == 0 }

// CancelTimer has it not called. Grant: timers.
func CancelTimer(number uint32) bool { return cancelTimer(number) == 0 }

// Search finds texts of the memory, the best first. Grant: memory.
func Search(query string, limit uint32) ([]string, error) {
	found, err := answer(searchMemory(pointer(query), uint32(len(query)), limit))
	if err != nil {
		return nil, err
	}
	var texts []string
	return texts, json.Unmarshal(found, &texts)
}

// Remember stores a text in the memory and returns its id. Grant: memory.
func Remember(text string) (string, error) {
	id, err := answer(storeMemory(pointer(text), uint32(len(text))))
	return string(id), err
}

// CallTool calls a tool of the agent file with an object, and decodes its result. Grant: tools.
func CallTool(name string, arguments, result any) error {
	given, err := json.Marshal(arguments)
	if err != nil {
		return err
	}
	at := unsafe.Pointer(unsafe.SliceData(given))
	found, err := answer(callTool(pointer(name), uint32(len(name)), at, uint32(len(given))))
	if err != nil {
		return err
	}
	return json.Unmarshal(found, result)
}

func answer(status int32) ([]byte, error) {
	text := make([]byte, takeAnswer(nil, 0))
	takeAnswer(unsafe.Pointer(unsafe.SliceData(text)), uint32(len(text)))
	if status < 0 {
		return nil, errors.New(string(text))
	}
	return text, nil
}

var room []byte // where the host has written a message; kept from the garbage collector

func pointer(text string) unsafe.Pointer { return unsafe.Pointer(unsafe.StringData(text)) }

//go:wasmexport caxton_alloc
func caxtonAlloc(size uint32) unsafe.Pointer {
	room = make([]byte, size+1)
	return unsafe.Pointer(&room[0])
}

//go:wasmexport agent_init
func agentInit() int32 { return 0 }

//go:wasmexport handle_message
func handleMessage(_ unsafe.Pointer, length uint32) int32 {
	var message Message
	if err := json.Unmarshal(room[:length], &message); err != nil {
		return 1
	}
	content, err := Handle(&message)
	if err != nil {
		Send(Outgoing{Performative: "failure", Content: map[string]string{"reason": err.Error()}})
	} else {
		Send(Outgoing{Performative: "inform", Content: content})
	}
	return 0
}

//go:wasmexport handle_timer
func handleTimer(number uint32) int32 {
	Timer(number)
	return 0
}

//go:wasmexport get_capabilities
func getCapabilities(at unsafe.Pointer, size uint32) uint32 {
	text, _ := json.Marshal(Offers)
	if uint32(len(text)) <= size {
		copy(unsafe.Slice((*byte)(at), size), text)
	}
	return uint32(len(text))
}

//go:wasmimport caxton send_message
func sendMessage(at unsafe.Pointer, length uint32) int32

//go:wasmimport caxton console_log
func consoleLog(at unsafe.Pointer, length uint32)

//go:wasmimport caxton current_timestamp
func currentTimestamp() int64

//go:wasmimport caxton random_u32
func randomU32() uint32

//go:wasmimport caxton store_data
func storeData(key unsafe.Pointer, keyLength uint32, at unsafe.Pointer, length uint32) int32

//go:wasmimport caxton load_data
func loadData(key unsafe.Pointer, keyLength uint32, at unsafe.Pointer, room uint32) int32

//go:wasmimport caxton delete_data
func deleteData(key unsafe.Pointer, keyLength uint32) int32

//go:wasmimport caxton set_timer
func setTimer(number uint32, delayUs int64) int32

//go:wasmimport caxton cancel_timer
func cancelTimer(number uint32) int32

//go:wasmimport caxton search_memory
func searchMemory(query unsafe.Pointer, length, limit uint32) int32

//go:wasmimport caxton store_memory
func storeMemory(at unsafe.Pointer, length uint32) int32

//go:wasmimport caxton call_tool
func callTool(name unsafe.Pointer, nameLength uint32, at unsafe.Pointer, length uint32) int32

//go:wasmimport caxton take_answer
func takeAnswer(at unsafe.Pointer, room uint32) int32
