from replayed_home import ReplayedHome


def test_x(replayed: ReplayedHome) -> None:
    import dataclasses
    for f in dataclasses.fields(replayed):
        print("##", f.name, str(getattr(replayed, f.name))[:1500], flush=True)
    for n in ("keys_made",):
        for r in getattr(replayed,n): print(r.output)
    for n in ("declined","first_signature","validation"):
        r=getattr(replayed,n); print(n, r.exit_code, r.output[:1500], r.stderr[:300])
