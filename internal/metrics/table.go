package metrics

// ID names a metric of the table.
type ID int

// The metrics, in the order in which they are written.
const (
	BuildInfo ID = iota
	ConfigOK
	ConfigLoaded
	ConfigReloads
	PartUp
	PartRestarts
	SourceEvents
	SourceRefused
	SourceUnreadTimes
	SourceStates
	WebhookRequests
	TailSkipped
	TailFiles
	TailBehind
	RuleMatched
	RuleDropped
	RuleHeld
	RuleReplaced
	RuleFailures
	JournalEvents
	JournalRefused
	JournalDropped
	JournalLost
	JournalDamaged
	JournalBytes
	JournalSegments
	JournalFailing
	JournalDiskReads
	JournalSync
	SinkDelivered
	SinkSkipped
	SinkDropped
	SinkWaiting
	SinkOldest
	SinkConnections
	BrokerClients
	BrokerSessions
	BrokerSubscriptions
	BrokerRetained
	BrokerRetainedBytes
	BrokerQueuedBytes
	BrokerReceived
	BrokerSent
	BrokerDropped
	BrokerDenied
	BrokerConnections
	BrokerRefused
	BrokerCutOff
	BrokerExpired
	HTTPResponses
	Goroutines
	HeapBytes
	ResidentBytes
	OpenFiles
	MaxFiles
	CPUSeconds
	Started
	count
)

var table = [count]Metric{
	BuildInfo:     {"event2mqtt_build_info", "Always 1; the labels are the program's version and that of Go.", Gauge, []string{"version", "goversion"}},
	ConfigOK:      {"event2mqtt_config_last_reload_successful", "Whether the newest configuration is the one in use.", Gauge, nil},
	ConfigLoaded:  {"event2mqtt_config_last_reload_success_timestamp_seconds", "When the configuration in use was loaded.", Gauge, nil},
	ConfigReloads: {"event2mqtt_config_reloads_total", "Reloads of the configuration since the start, by their result: ok or failed.", Counter, []string{"result"}},
	PartUp:        {"event2mqtt_component_up", "Whether a source or sink does its work: 0 while it waits for a peer or has failed.", Gauge, []string{"kind", "name"}},
	PartRestarts:  {"event2mqtt_component_failures_total", "Times that a source or sink has failed; it is started again each time.", Counter, []string{"kind", "name"}},

	SourceEvents:      {"event2mqtt_source_events_total", "Events of a source that were accepted, also those that rules have dropped.", Counter, []string{"source"}},
	SourceRefused:     {"event2mqtt_source_refused_total", "Events of a source that were not accepted, by reason: invalid and too_large are final; full (the journal or the disk) and failed are tried again by most sources, and counted each time.", Counter, []string{"source", "reason"}},
	SourceUnreadTimes: {"event2mqtt_source_unread_times_total", "Times that could not be read; their events got the time of their arrival.", Counter, []string{"source"}},
	SourceStates:      {"event2mqtt_source_states", "States that a source keeps up to date, such as a printer's; the bridge's own are named bridge.", Gauge, []string{"source"}},
	WebhookRequests:   {"event2mqtt_webhook_requests_total", "Requests to webhooks, by the status they were answered with.", Counter, []string{"source", "status"}},
	TailSkipped:       {"event2mqtt_tail_lines_skipped_total", "Lines that made no event; the log says why.", Counter, []string{"source"}},
	TailFiles:         {"event2mqtt_tail_files", "Files that a source follows.", Gauge, []string{"source"}},
	TailBehind:        {"event2mqtt_tail_behind_bytes", "Bytes of these files that are not read yet, not counting compressed files; a last line without a line end counts.", Gauge, []string{"source"}},
	RuleMatched:       {"event2mqtt_rule_matched_total", "Events that a rule matched.", Counter, []string{"rule"}},
	RuleDropped:       {"event2mqtt_rule_dropped_total", "Events that a rule has dropped, or found repeated.", Counter, []string{"rule"}},
	RuleHeld:          {"event2mqtt_rule_held_total", "Events that a rule has held back until its interval was over.", Counter, []string{"rule"}},
	RuleReplaced:      {"event2mqtt_rule_replaced_total", "Events that a rule held back until newer ones took their place.", Counter, []string{"rule"}},
	RuleFailures:      {"event2mqtt_rule_failures_total", "Times that a rule's expression failed.", Counter, []string{"rule"}},

	JournalEvents:    {"event2mqtt_journal_events_total", "Events that were stored.", Counter, nil},
	JournalRefused:   {"event2mqtt_journal_refused_total", "Events that could not be stored, by reason: full (journal.max_size or the disk) or error (of the disk).", Counter, []string{"reason"}},
	JournalDropped:   {"event2mqtt_journal_dropped_total", "Events that were given up before every sink had them, as when_full says; those that were kept only for a removed sink count as well.", Counter, nil},
	JournalLost:      {"event2mqtt_journal_lost_total", "About how many events were lost to damage of the journal's files.", Counter, nil},
	JournalDamaged:   {"event2mqtt_journal_damaged_total", "Damaged stretches of the journal that were set aside.", Counter, nil},
	JournalBytes:     {"event2mqtt_journal_bytes", "Size of the journal on disk.", Gauge, nil},
	JournalSegments:  {"event2mqtt_journal_segments", "Files of the journal.", Gauge, nil},
	JournalFailing:   {"event2mqtt_journal_failing", "Whether events cannot be stored now, or there is still no room for those that were refused last.", Gauge, nil},
	JournalDiskReads: {"event2mqtt_journal_disk_reads_total", "Times that a file of the journal was read for a sink that fell behind.", Counter, nil},
	JournalSync:      {"event2mqtt_journal_sync_duration_seconds", "How long the disk took to sync events.", Histogram, nil},

	SinkDelivered:   {"event2mqtt_sink_delivered_total", "Events that a sink has finished with: its destination has them, except those that event2mqtt_sink_skipped_total counts.", Counter, []string{"sink"}},
	SinkSkipped:     {"event2mqtt_sink_skipped_total", "Events that the destination will never take, kept in refused/ in the state folder.", Counter, []string{"sink"}},
	SinkDropped:     {"event2mqtt_sink_dropped_total", "Events that were given up before this sink had delivered them, as when_full says.", Counter, []string{"sink"}},
	SinkWaiting:     {"event2mqtt_sink_waiting_events", "Events that are stored and not delivered yet.", Gauge, []string{"sink"}},
	SinkOldest:      {"event2mqtt_sink_oldest_waiting_seconds", "How long the oldest of them has been stored, to about a second; 0 if none waits. After a restart the real time may be longer.", Gauge, []string{"sink"}},
	SinkConnections: {"event2mqtt_sink_connections_total", "Connections to the destination that were made; all but the first are reconnects.", Counter, []string{"sink"}},

	BrokerClients:       {"event2mqtt_broker_clients", "Clients that are connected to the bundled broker.", Gauge, nil},
	BrokerSessions:      {"event2mqtt_broker_sessions", "Sessions of the bundled broker, of connected and of absent clients.", Gauge, nil},
	BrokerSubscriptions: {"event2mqtt_broker_subscriptions", "Subscriptions at the bundled broker, with those of the program itself.", Gauge, nil},
	BrokerRetained:      {"event2mqtt_broker_retained_messages", "Messages that the bundled broker retains.", Gauge, nil},
	BrokerRetainedBytes: {"event2mqtt_broker_retained_bytes", "Size of the messages that the bundled broker retains.", Gauge, nil},
	BrokerQueuedBytes:   {"event2mqtt_broker_queued_bytes", "Size of the messages that wait for their clients at the bundled broker.", Gauge, nil},
	BrokerReceived:      {"event2mqtt_broker_messages_received_total", "Messages that the bundled broker got from clients and from this program.", Counter, nil},
	BrokerSent:          {"event2mqtt_broker_messages_sent_total", "Messages that the bundled broker sent to clients.", Counter, nil},
	BrokerDropped:       {"event2mqtt_broker_messages_dropped_total", "Messages that the bundled broker did not pass on or retain, by reason: queue (the client cannot take them), too_large (for the client), or retained_full.", Counter, []string{"reason"}},
	BrokerDenied:        {"event2mqtt_broker_denied_total", "Messages and subscriptions that the bundled broker's access rules do not allow.", Counter, nil},
	BrokerConnections:   {"event2mqtt_broker_connections_total", "Connections that the bundled broker accepted.", Counter, nil},
	BrokerRefused:       {"event2mqtt_broker_connections_refused_total", "Connections that the bundled broker refused, by reason: limit or login.", Counter, []string{"reason"}},
	BrokerCutOff:        {"event2mqtt_broker_clients_cut_off_total", "Clients that the bundled broker cut off, since they broke the protocol or a limit.", Counter, nil},
	BrokerExpired:       {"event2mqtt_broker_sessions_expired_total", "Sessions of the bundled broker that have expired.", Counter, nil},

	HTTPResponses: {"event2mqtt_http_responses_total", "Answers of the HTTP server.", Counter, []string{"code"}},
	Goroutines:    {"go_goroutines", "Goroutines that exist.", Gauge, nil},
	HeapBytes:     {"go_memory_heap_objects_bytes", "Memory of objects on Go's heap.", Gauge, nil},
	ResidentBytes: {"process_resident_memory_bytes", "Memory that the process holds; on Linux only.", Gauge, nil},
	OpenFiles:     {"process_open_fds", "Files and sockets that are open; on Linux only.", Gauge, nil},
	MaxFiles:      {"process_max_fds", "Files and sockets that may be open; on Linux only.", Gauge, nil},
	CPUSeconds:    {"process_cpu_seconds_total", "Processor time that the process has used; on Linux only.", Counter, nil},
	Started:       {"process_start_time_seconds", "When the program began to run, in seconds since 1970.", Gauge, nil},
}
