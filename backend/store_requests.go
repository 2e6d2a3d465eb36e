package backend

import (
	"context"
	"errors"
)

// request returns nil for an ID that names none.
func (s *store) request(ctx context.Context, id string) (*requestRecord, error) {
	r := &requestRecord{}
	ok, err := s.get(ctx, prefixRequests+id, r)
	if err != nil || !ok {
		return nil, err
	}
	if r.ID != id {
		return nil, &damagedError{prefixRequests + id, errors.New("is of another request")}
	}
	return r, nil
}

func (s *store) putRequest(ctx context.Context, r *requestRecord) error {
	r.Version = recordVersion
	return s.put(ctx, prefixRequests+r.ID, r)
}

func (s *store) deleteRequest(ctx context.Context, id string) error {
	return s.delete(ctx, prefixRequests+id)
}

// requestIDs lists the requests, whatever their state.
func (s *store) requestIDs(ctx context.Context) ([]string, error) {
	return s.list(ctx, prefixRequests)
}
