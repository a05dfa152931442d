package access

// What the external tests look into.
var (
	ParseJournal  = parseJournal
	AppendJournal = appendJournal
)
