package cli

import (
	"strings"
	"testing"
)

const (
	wrappingData = `{"version":3,"newest":true,"state":"live","suite":"hpke-p256","label":"vault-mpc 00ff v3","key_id":"aa11",
		"token_serial":"0123","public_key":"04ab","created_time":"2026-01-02T03:04:05Z","retired_time":"","destroy_after":"",
		"destroyed_time":"","references":{"accounts":2,"node_keys":5,"complete":true},"last_error":""}`
	wrappingList = `{"keys":["3","10","2"],"key_info":{
		"2":{"state":"retired","newest":false,"suite":"rsa3072-oaep-sha256","created_time":"2026-01-01T03:04:05Z","references":{"accounts":1,"node_keys":0,"complete":false}},
		"10":{"state":"live","newest":true,"suite":"hpke-p256","created_time":"2026-01-03T03:04:05Z","references":{"accounts":0,"node_keys":0,"complete":true}},
		"3":{"state":"destroyed","newest":false,"suite":"hpke-p256","created_time":"2026-01-02T03:04:05Z","references":{"accounts":0,"node_keys":0,"complete":true}}}}`
	rotationData = `{"refresh_period":600,"idle_refresh_period":3600,"aux_period":0,"rewrap_period":86400,"retire_after":604800,
		"concurrency":4,"rate":20,"accounts":100,"due_now":7,"running":4,"waiting_in_backoff":1,"refreshed_total":1234,"failed_total":2,
		"last_error":{"account":"hot","time":"2026-01-02T03:04:05Z","error":"HSM unavailable"},"oldest_shares_time":"2026-01-02T02:54:05Z",
		"rewrap":{"version":3,"done":60,"total":100,"rewrapped_total":160,"failed_total":1,
			"last_error":{"what":"wrapping keys: destroying","version":1,"time":"2026-01-02T03:00:00Z","error":"the token is away"}},
		"next_rewrap":"2026-01-03T03:04:05Z","catch_up":{"remaining":12,"started_time":"2026-01-02T03:03:00Z","finished_time":""}}`
)

// keeping is a mount that looks after its wrapping keys and shares.
func keeping(t *testing.T) *server {
	s := newServer(t)
	s.on("LIST mpc/wrapping-keys", data(wrappingList))
	s.on("GET mpc/wrapping-keys/3", data(wrappingData))
	s.on("PUT mpc/wrapping-keys/rotate", data(`{"version":4,"suite":"hpke-p256","label":"vault-mpc 00ff v4"}`))
	s.on("GET mpc/config/rotation", data(rotationData))
	s.on("PUT mpc/rotation/catch-up", data(`{"remaining":7,"started_time":"2026-01-02T03:04:05Z","finished_time":""}`))
	return s
}

func TestGoldenKeeping(t *testing.T) {
	keeping(t)
	for name, args := range map[string]string{
		"wrapping_key_list":   "wrapping-key list",
		"wrapping_key_show":   "wrapping-key show 3",
		"wrapping_key_rotate": "wrapping-key rotate",
		"rotation_status":     "rotation status",
		"rotation_catch_up":   "rotation catch-up",
	} {
		for _, format := range []string{"table", "json"} {
			t.Run(name+"/"+format, func(t *testing.T) {
				res := run(t, append(strings.Fields(args), "-o", format)...)
				res.want(t, 0)
				golden(t, name+"."+format, res.stdout)
			})
		}
	}
}

func TestKeepingRequests(t *testing.T) {
	s := keeping(t)
	run(t, "rotation", "catch-up").want(t, 0)
	run(t, "rotation", "catch-up", "--all").want(t, 0)
	calls := s.called("PUT mpc/rotation/catch-up")
	if len(calls) != 2 || calls[0].body["all"] != false || calls[1].body["all"] != true {
		t.Errorf("sent %v", calls)
	}
	run(t, "wrapping-key", "rotate").want(t, 0)
	if n := len(s.called("PUT mpc/wrapping-keys/rotate")); n != 1 {
		t.Errorf("%d requests, want 1", n)
	}

	s.forget()
	for _, args := range []string{"show", "show 0", "show -1", "show 1 2", "show latest", "show ../rotate", "show 4294967296", "list 3", "rotate now", "destroy 3"} {
		run(t, append([]string{"wrapping-key"}, strings.Fields(args)...)...).want(t, 2, "Run 'mpckms wrapping-key")
	}
	run(t, "rotation", "status", "now").want(t, 2, "unexpected argument")
	if len(s.calls) != 0 {
		t.Errorf("sent %v", s.calls)
	}
}

func TestKeepingErrors(t *testing.T) {
	s := keeping(t)
	run(t, "wrapping-key", "show", "9").want(t, 1, "cannot show version 9 of the wrapping key")
	s.on("GET mpc/config/rotation", fails(403, "permission denied"))
	run(t, "rotation", "status").want(t, 1, `path "mpc/config/rotation" { capabilities = ["read", "sudo"] }`)
	s.on("LIST mpc/wrapping-keys", data(`{"keys":["x"]}`))
	run(t, "wrapping-key", "list").want(t, 1, `"x", which is no number`)
	s.on("LIST mpc/wrapping-keys", data(`{"keys":["1"],"key_info":{"1":[]}}`))
	run(t, "wrapping-key", "list").want(t, 1, `about version "1" cannot be read`)
	s.on("LIST mpc/wrapping-keys", fails(404))
	res := run(t, "wrapping-key", "list")
	res.want(t, 0)
	if !strings.Contains(res.stdout, "No wrapping key yet") {
		t.Errorf("stdout: %s", res.stdout)
	}
	s.on("PUT mpc/wrapping-keys/rotate", fails(400, "64 versions are live already"))
	run(t, "wrapping-key", "rotate").want(t, 1, "64 versions are live already (status 400)")
	s.on("PUT mpc/rotation/catch-up", fails(503, "the HSM is unavailable"))
	run(t, "rotation", "catch-up").want(t, 1, "the HSM is unavailable")
}

// A fresh mount: nothing has failed, nothing is planned.
func TestRotationStatusQuiet(t *testing.T) {
	s := keeping(t)
	s.on("GET mpc/config/rotation", data(`{"refresh_period":600,"rewrap_period":0,"retire_after":604800,"last_error":{},"rewrap":{"last_error":{}},"catch_up":{}}`))
	res := run(t, "rotation", "status")
	res.want(t, 0)
	for _, word := range []string{"failed refresh", "failed rewrap", "Catch-up", "idle", "Next", "Oldest"} {
		if strings.Contains(res.stdout, word) {
			t.Errorf("%q is shown where there is nothing to say:\n%s", word, res.stdout)
		}
	}
	if !strings.Contains(res.stdout, "never by itself") {
		t.Errorf("stdout: %s", res.stdout)
	}
}
