package backend

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/prometheus/common/expfmt"
)

// metricsType is the content type of Prometheus' text format.
const metricsType = "text/plain; version=0.0.4; charset=utf-8"

func (b *backend) pathMetrics() []*framework.Path {
	// It forwards: only the active server has nodes and accounts in memory.
	read := b.operation("Read the metrics in Prometheus' text format.", true, b.handle("metrics", 0, b.metricsRead), nil)
	read.Responses = map[int][]framework.Response{
		http.StatusOK: {{Description: "Metrics, as text.", MediaType: "text/plain", Example: &logical.Response{Data: map[string]any{
			"text": "mpc_nodes{state=\"ready\"} 5",
		}}}},
	}
	return []*framework.Path{{
		Pattern: "metrics$",
		DisplayAttrs: &framework.DisplayAttributes{
			OperationPrefix: operationPrefix, OperationSuffix: "metrics",
		},
		Operations:   map[logical.Operation]framework.OperationHandler{logical.ReadOperation: read},
		HelpSynopsis: "What this mount has done and how it is, for Prometheus.",
		HelpDescription: strings.TrimLeft(`
Returns counters, gauges and histograms as text, not as JSON:

  $ vault read -format=raw mpc/metrics
  $ curl --silent --fail -H @<(echo "X-Vault-Token: $VAULT_TOKEN") "$VAULT_ADDR/v1/mpc/metrics"

Prometheus reads the path with a token whose policy allows it and nothing else;
docs/monitoring.md has its configuration, a dashboard and alerts. Counters begin
at 0 with each start of the plugin. No account is named: which one fails is told
by mpc/config/rotation and mpc/accounts/:name.
`, "\n"),
	}}
}

func (b *backend) metricsRead(ctx context.Context, _ *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	gatherer, err := b.gather(ctx)
	if err != nil {
		return nil, err
	}
	families, err := gatherer.Gather()
	if err != nil {
		return nil, fmt.Errorf("collecting metrics: %w", err)
	}
	var text bytes.Buffer
	encoder := expfmt.NewEncoder(&text, expfmt.NewFormat(expfmt.TypeTextPlain))
	for _, f := range families {
		if err := encoder.Encode(f); err != nil {
			return nil, fmt.Errorf("writing metrics: %w", err)
		}
	}
	return &logical.Response{Data: map[string]any{
		logical.HTTPContentType: metricsType,
		logical.HTTPRawBody:     text.Bytes(),
		logical.HTTPStatusCode:  http.StatusOK,
	}}, nil
}
