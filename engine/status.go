package engine

import "time"

// State is where the engine stands as a whole.
type State int

// The engine's states. Only Ready means that a token has been generated with
// the loaded model since its load.
const (
	StateEmpty    State = iota // no model is loaded
	StateLoading               // a first model is being loaded
	StateReady                 // a model is loaded and has generated a token
	StateDraining              // no new work is taken
	StateFailed                // the device cannot be used any more; the process should be replaced
)

// Status is a snapshot of the engine, taken without touching the device.
type Status struct {
	State     State
	Reason    string // why the engine is not ready, in words; empty when it is
	Failure   error  // an ErrFatal in StateFailed, with what the device said
	Model     *ModelInfo
	Device    DeviceInfo
	Started   time.Time // when the engine was made
	Running   int       // requests that take part in steps; one for several answers counts as so many
	Waiting   int       // requests in the queue
	KVUsed    int       // KV blocks in use
	KVMapped  int       // KV blocks that there is memory for at present
	KVTotal   int       // KV blocks in all
	KVShort   bool      // the device had no memory for more when it was asked last: KVMapped is all there is
	KVTokens  int       // tokens that a KV block holds
	Steps     uint64    // device steps run since the start
	Tokens    uint64    // tokens generated since the start
	LastStep  time.Time // when the latest step ended; zero before the first
	BusySince time.Time // when the step now running began; zero while idle
}

// DeviceInfo describes the device that the engine owns.
type DeviceInfo struct {
	Kind        string // "cpu" or "cuda"
	Name        string // the processor's or the GPU's own name
	Driver      string // what drives a GPU, with its version: "580.95.05, CUDA 13.0"
	Threads     int    // worker threads; 0 for a GPU
	MemoryUsed  uint64 // bytes that Kigo holds on the device
	MemoryFree  uint64 // bytes that the device has left; 0 when unknown
	MemoryTotal uint64 // bytes of device memory; 0 when unknown
}

// ModelInfo describes a loaded model.
type ModelInfo struct {
	Name          string
	Architecture  string // "llama", "qwen2"
	Description   string // general.name of the file
	Parameters    uint64 // number of weights
	Quantization  string // formats as stored, by falling share of the bytes: "Q5_0, Q8_0, Q6_K"
	ContextLength int    // tokens that a sequence may hold here
	TrainContext  int    // tokens that the model was trained for
	Vocabulary    int
	Tokenizer     string
	ChatTemplate  bool
	Tensors       int
	Memory        MemoryUse
	TokenBytes    uint64 // that keys and values of one token take in the KV cache
	Load          LoadTimes
	Verified      bool // every tensor's hash on the device equals the file's
	Warnings      []string
	LoadedAt      time.Time
}

// MemoryUse is device memory in bytes, by kind.
type MemoryUse struct {
	Weights    uint64
	KV         uint64 // what the KV cache takes at present
	KVReserved uint64 // what it takes at most
	Scratch    uint64
}

// LoadTimes is how long each stage of a load took.
type LoadTimes struct {
	Parse      time.Duration
	Tokenizer  time.Duration
	Read       time.Duration
	Verify     time.Duration
	Compile    time.Duration
	FirstToken time.Duration
	Total      time.Duration
}

// LoadStage is one stage of a load.
type LoadStage int

// The stages of a load, in order. Reading and the tokenizer overlap.
const (
	StageParse LoadStage = iota
	StageRead
	StageVerify
	StageCompile
	StageWarmUp
	StageDone
)

// LoadProgress reports how far a load has come.
type LoadProgress struct {
	Stage        LoadStage
	BytesDone    uint64
	BytesTotal   uint64
	TensorsDone  int
	TensorsTotal int
	BytesPerSec  float64
	Elapsed      time.Duration
}
