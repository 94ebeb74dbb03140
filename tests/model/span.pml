/*
 * tests/model/span.pml: one span word (DESIGN sections 6 and 7). The reference for farmem/span.h, fault.c, evict.c,
 * purge.c and repack.c: an arrow that is not here is not allowed there.
 *
 *   word = {state, flags, gen, ref}. ref names a record position in FAR, FETCHING from far and NEAR|HAS_FAR; the
 *   staging slot in EVICTING and in FETCHING from a rescue.
 *
 *   arrow                                        by        what goes with it, in this order
 *   EMPTY -> FETCHING -> NEAR                    fault     zero page installed before NEAR
 *   NEAR -> EVICTING|TAKING (gen+1)              evictor   descriptor (old reference) written BEFORE the CAS
 *   EVICTING|TAKING -> EVICTING                  evictor   page MOVEd to staging before; nobody else touches a TAKING
 *                                                          word: faults and purges wait
 *   EVICTING|TAKING -> NEAR[|HAS_FAR]            evictor   the page would not move (pinned)
 *   EVICTING|TAKING -> FAR(old)                  dropper   a handler in need of room: bytes hash to what was fetched
 *                                                          from old; through a staging slot of its own, never staged
 *   EVICTING -> EVICTING|SEALED                  evictor   from here on staging is read only, until its grace is over
 *   EVICTING -> FETCHING -> NEAR[|HAS_FAR]       fault     MOVE back; the rescuer owns the old reference now
 *   EVICTING|SEALED -> FETCHING -> NEAR          fault     COPY; the old reference stays the evictor's
 *   EVICTING|SEALED -> FETCHING -> NEAR          evictor   the store failed: the bytes go back
 *   EVICTING|SEALED -> FAR(old)                  evictor   bytes hash to what was fetched from old
 *   EVICTING|SEALED -> FAR(new)                  evictor   after all acks and the record's STABLE
 *   (a CAS to FAR that fails)                    evictor   the new position is born dead. Whatever happens after
 *                                                          SEALED, the evictor gives the old reference up, once,
 *                                                          unless it became FAR(old)
 *   FAR -> FETCHING -> NEAR[|HAS_FAR]            fault     read, installed, hash remembered, NEAR
 *   EMPTY, NEAR, FAR, EVICTING[|SEALED] -> DROPPING (gen+1) -> EMPTY
 *                                                purge     madvise between the two. The CAS made the reference its
 *                                                          own (an EVICTING word's unless SEALED)
 *   FAR(a) -> FAR(b), NEAR|HAS_FAR(a) -> NEAR    repacker  holding the claim on record a
 *
 *   Without MOVE (-DWP) the same, but: taking out is write-protect, then copy to staging; a rescue un-protects; and
 *   EVICTING|SEALED -> DROPPING -> FAR, the page dropped between the two.
 *   The rescuer must hold the word (FETCHING) while it un-protects: CAS EVICTING -> NEAR and un-protect afterwards
 *   loses writes, because the next evictor may claim, protect and copy in between, and the late un-protect then lets
 *   a write through that its drop throws away (BUG_NEAR_THEN_UNPROTECT).
 *
 *   A reference is owned by exactly one word, descriptor or thread; its owner clears the live bit, once. A record
 *   with live == 0 that nobody has claimed goes to limbo. Staging slots and records leave limbo when every thread
 *   that was inside an epoch when they entered has left it (epoch.pml proves the counters that implement this).
 *   Waiting (TAKING, FETCHING, DROPPING) is done OUTSIDE the epoch: it would hold up staging otherwise.
 *   A rescuer reads descriptor and staging inside an epoch. The purger has none: it reads the descriptor before its
 *   CAS, and gen tells it that the claim it read about is the claim it took (BUG_NO_GEN: it gives up a reference that
 *   the slot held for an earlier claim).
 *
 * Data are version numbers, 0 and 1 in turn: any stale copy is exposed by an odd number of writes. `truth` is what a
 * read must see; madvise makes it 0. Accesses are atomic; a missing page faults, so does a write to a protected one.
 * Asserted: every read sees truth; a NEAR word's page is present; a live bit is set and cleared once and none is
 * leaked; nothing in staging or far is read after it was given to somebody else.
 *
 * Actors: -DAPPS=1|2 (threads of the program with their fault handlers) -DEVICTORS=1|2 -DDROPPERS=0|1 -DPURGERS=0|1
 * -DREPACKERS=0|1. With a purger the run is bounded to GENS claims, so that gen does not wrap.
 *
 * Steps that only touch what is private to the actor are merged with their neighbour; so is a load with the CAS that
 * follows it when nothing else is read in between (a failed CAS has no effect), and a thread that waits is a thread
 * that has not begun. Reuse is modelled as happening at once, when it is allowed: bytes turn into GARBAGE.
 * Broken on purpose, each must be found: see `run`.
 */
#ifndef APPS
#define APPS 2
#endif
#ifndef EVICTORS
#define EVICTORS 1
#endif
#ifndef PURGERS
#define PURGERS 0
#endif
#ifndef DROPPERS
#define DROPPERS 0
#endif
#ifndef REPACKERS
#define REPACKERS 0
#endif
#ifndef GENS
#define GENS 4
#endif
#define STAGES (EVICTORS + DROPPERS)
#define PRIVATE (STAGES - 1) /* the dropper's own */
#define RECORDS (1 + EVICTORS + REPACKERS)

#define EMPTY 0
#define NEAR 1
#define EVICTING 2
#define DROPPING 3
#define FAR 4
#define FETCHING 5

#define HAS_FAR 1
#define SEALED 2
#define TAKING 4

#define NOREF 7
#define GARBAGE 2 /* somebody else's bytes */
#define NOHASH 3

#define MAKE(st, fl, ref) ((st) + 8 * (fl) + 64 * (ref))
#define STATE(w) ((w) & 7)
#define FLAGS(w) (((w) >> 3) & 7)
#define REF(w) (((w) >> 6) & 7)

/* records */
#define R_FREE 0
#define R_STABLE 1
#define R_CLAIMED 2
#define R_LIMBO 3
/* staging slots */
#define S_FREE 0
#define S_USED 1
#define S_LIMBO 2

short W = MAKE(EMPTY, 0, NOREF);
byte gen;                /* of the word; counted only when a purger needs it */
bool present, protected; /* the program's page */
byte val, truth;
byte hash = NOHASH; /* content remembered at the last fetch, or forgotten */
byte stage_state[STAGES], stage_val[STAGES] = GARBAGE, stage_old[STAGES] = NOREF, stage_readers[STAGES];
bool stage_has[STAGES]; /* the page is in staging: not moved back, not dropped */
byte rec_state[RECORDS], rec_val[RECORDS] = GARBAGE, rec_readers[RECORDS];
bool rec_live[RECORDS];
byte inside;               /* bit per thread inside an epoch */
byte purge_ref = NOREF;    /* what the purger owns at the moment: a ghost */
byte i;                    /* loop counter of d_steps; always 0 between them */

#ifdef BUG_NO_EPOCH
#define READERS 0
#else
#define READERS inside
#endif

#define INVARIANT assert(STATE(W) != NEAR || present)

#if PURGERS > 0
#define MAY_CLAIM (gen < GENS)
#define CLAIM gen++
#else
#define MAY_CLAIM true
#define CLAIM skip
#endif

/* The owner of a transient state (TAKING, FETCHING, DROPPING) leaves it: nobody else may have touched it. */
inline leave(from, to)
{
	assert(W == from);
	W = to;
	INVARIANT
}

inline stage_reuse_if_allowed(s)
{
	if
	:: stage_state[s] == S_LIMBO && stage_readers[s] == 0 ->
		stage_state[s] = S_FREE;
		stage_val[s] = GARBAGE;
		stage_old[s] = NOREF;
		stage_has[s] = false
	:: else
	fi
}

inline record_reuse_if_allowed(r)
{
	if
	:: rec_state[r] == R_LIMBO && rec_readers[r] == 0 -> rec_state[r] = R_FREE; rec_val[r] = GARBAGE
	:: else
	fi
}

inline epoch_enter(me)
{
	inside = inside | (1 << me)
}

inline epoch_exit(me)
{
	inside = inside & ~(1 << me);
	for (i : 0 .. STAGES - 1) {
		stage_readers[i] = stage_readers[i] & ~(1 << me);
		stage_reuse_if_allowed(i)
	}
	for (i : 0 .. RECORDS - 1) {
		rec_readers[i] = rec_readers[i] & ~(1 << me);
		record_reuse_if_allowed(i)
	}
	i = 0
}

inline record_retire_if_dead(r)
{
	if
	:: rec_state[r] == R_STABLE && !rec_live[r] ->
		rec_state[r] = R_LIMBO;
		rec_readers[r] = READERS;
		record_reuse_if_allowed(r)
	:: else
	fi
}

/* The owner of reference r gives it up. */
inline clear_live(r)
{
	assert(r != NOREF);
	assert(rec_live[r]);
	assert(rec_state[r] == R_STABLE || rec_state[r] == R_CLAIMED);
	rec_live[r] = false;
	record_retire_if_dead(r)
}

#define A_RECORD_IS_FREE (rec_state[0] == R_FREE || rec_state[1] == R_FREE || rec_state[RECORDS - 1] == R_FREE)

/* While the only evictor stores, a live reference is its old one, or on its way to be given up. */
#if EVICTORS == 1 && REPACKERS == 0
#define NO_LEAK(r) assert(!rec_live[r] || r == stage_old[0] || r == purge_ref)
#else
#define NO_LEAK(r) skip
#endif

/* Slots written and acknowledged, record STABLE. The bytes cannot be seen before a word names them. */
inline record_write(r, v)
{
	NO_LEAK(0);
	NO_LEAK(RECORDS - 1);
	r = 0;
	do
	:: rec_state[r] == R_FREE -> break
	:: else -> r++
	od;
	assert(!rec_live[r]);
	rec_val[r] = v;
	rec_state[r] = R_STABLE;
	rec_live[r] = true
}

/* ------------------------------------------------------------------ fault.c */

#define SHUT(w) (STATE(w) == FETCHING || STATE(w) == DROPPING)
#ifdef BUG_NO_TAKING
#define MUST_WAIT(w) SHUT(w)
#else
#define MUST_WAIT(w) (SHUT(w) || (STATE(w) == EVICTING && (FLAGS(w) & TAKING)))
#endif

inline fault_zero()
{
	d_step { !present && STATE(W) == EMPTY -> W = MAKE(FETCHING, 0, NOREF) };
	d_step { assert(!present); present = true; protected = false; val = 0 };
	d_step { leave(MAKE(FETCHING, 0, NOREF), MAKE(NEAR, 0, NOREF)) }
}

inline fault_fetch(me)
{
	d_step {
		!present && STATE(W) == FAR ->
		epoch_enter(me);
		w = W;
		W = MAKE(FETCHING, HAS_FAR, REF(w))
	};
	d_step { t = rec_val[REF(w)]; assert(t != GARBAGE) };
	atomic {
		assert(!present);
		present = true;
		protected = false;
		val = t;
		/* The table of hashes is lossy; when it cannot remember the new hash it must forget the old one. */
		if
		:: hash = t
#ifdef BUG_STALE_HASH
		:: skip
#else
		:: hash = NOHASH
#endif
		fi
	};
	if
	:: d_step {
			leave(MAKE(FETCHING, HAS_FAR, REF(w)), MAKE(NEAR, HAS_FAR, REF(w)));
			epoch_exit(me);
			w = 0; t = 0
		}
	:: d_step { /* no room for duplicates */
			leave(MAKE(FETCHING, HAS_FAR, REF(w)), MAKE(NEAR, 0, NOREF));
			clear_live(REF(w));
			epoch_exit(me);
			w = 0; t = 0
		}
	fi
}

#ifdef WP
#define FAULTS (present && protected)
#else
#define FAULTS (!present)
#endif

/* The page comes back: itself before the seal, a copy after; without MOVE it was never away. */
inline rescue_page()
{
#ifdef WP
	d_step { assert(present); protected = false }
#else
	if
#ifdef BUG_MOVE_AFTER_SEAL
	:: d_step { true ->
#else
	:: d_step { (FLAGS(w) & SEALED) ->
			assert(stage_has[REF(w)] && !present);
			present = true;
			val = stage_val[REF(w)]
		};
		/* a copy takes its time: staging must still be ours at its end */
		assert(stage_has[REF(w)] && stage_val[REF(w)] != GARBAGE)
	:: d_step { !(FLAGS(w) & SEALED) ->
#endif
			assert(stage_has[REF(w)] && !present);
			present = true;
			val = stage_val[REF(w)];
			stage_has[REF(w)] = false
		}
	fi
#endif
}

/*
 * The word was EVICTING, staged, when loaded. The descriptor is read before the CAS, under the epoch; what was read
 * counts only if the CAS succeeds.
 */
inline fault_rescue(me)
{
	d_step { FAULTS && STATE(W) == EVICTING && !MUST_WAIT(W) -> epoch_enter(me); w = W };
	t = stage_old[REF(w)];
#ifndef BUG_KEEP_REFERENCE
	d_step {
		if
		:: FLAGS(w) & SEALED -> t = NOREF /* it is the evictor's */
		:: else
		fi
	};
#endif
#ifdef BUG_NEAR_THEN_UNPROTECT
	atomic {
		if
		:: W == w -> W = MAKE(NEAR, (t != NOREF), t)
		:: else -> goto rescue_over
		fi
	};
	protected = false;
#else
	atomic {
		if
		:: W == w -> W = MAKE(FETCHING, FLAGS(w), REF(w))
		:: else -> goto rescue_over
		fi
	};
	rescue_page();
	d_step { leave(MAKE(FETCHING, FLAGS(w), REF(w)), MAKE(NEAR, (t != NOREF), t)) };
#endif
rescue_over:
	atomic { epoch_exit(me); w = 0; t = 0 }
}

proctype app(byte me)
{
	short w;
	byte t;

end:	do
	:: d_step { present -> assert(val == truth) }
	:: d_step { present && !protected -> truth = 1 - truth; val = truth }
	:: fault_zero()
	:: fault_fetch(me)
	:: fault_rescue(me)
	od
}

/* ------------------------------------------------------------------ evict.c */

#define A_STAGE_IS_FREE (stage_state[0] == S_FREE || (EVICTORS > 1 && stage_state[1] == S_FREE))

/* A staging slot, its descriptor, then the claim. */
inline evict_claim(slot)
{
	w = W;
	s = slot;
	stage_state[s] = S_USED;
	stage_old[s] = ((FLAGS(w) & HAS_FAR) -> REF(w) : NOREF);
	CLAIM;
	W = MAKE(EVICTING, TAKING, s)
}

/* Staging and the program's page change places (or: the page is protected, then copied). */
inline evict_take()
{
#ifdef WP
	d_step { assert(present); protected = true };
	d_step { assert(present && !stage_has[s]); stage_has[s] = true; stage_val[s] = val }
#else
	d_step {
		assert(present && !stage_has[s]);
		stage_has[s] = true;
		stage_val[s] = val;
		present = false;
		val = GARBAGE
	}
#endif
}

#define OLD stage_old[s]
#define IS_CLEAN (OLD != NOREF && hash != NOHASH && hash == stage_val[s])

/* SEALED -> FAR(r). ok: it is so now. */
inline evict_publish(r)
{
#ifdef WP
	d_step {
		ok = (W == MAKE(EVICTING, SEALED, s));
		if
#ifdef BUG_PUBLISH_BEFORE_DROP
		:: ok -> W = MAKE(FAR, 0, r)
#else
		:: ok -> W = MAKE(DROPPING, SEALED, s)
#endif
		:: else
		fi
	};
	if
	:: ok ->
		d_step { present = false; protected = false; val = GARBAGE; INVARIANT };
#ifndef BUG_PUBLISH_BEFORE_DROP
		d_step { leave(MAKE(DROPPING, SEALED, s), MAKE(FAR, 0, r)) }
#endif
	:: else
	fi
#else
	d_step {
		assert(stage_has[s]);
		ok = (W == MAKE(EVICTING, SEALED, s));
		if
		:: ok -> W = MAKE(FAR, 0, r)
		:: else
		fi
	}
#endif
}

/* Same bytes as the old copy: nothing is written. SEALED made the old reference ours. */
inline evict_clean()
{
	evict_publish(OLD);
	d_step {
		if
		:: !ok -> clear_live(OLD)
		:: else
		fi
	}
}

inline evict_store()
{
	d_step {
		A_RECORD_IS_FREE ->
		assert(stage_has[s]); /* encoding never meets a missing page */
#ifdef BUG_PUBLISH_BEFORE_ACK
		record_write(r, GARBAGE)
#else
		record_write(r, stage_val[s])
#endif
	};
	evict_publish(r);
	d_step {
		if
		:: !ok -> clear_live(r) /* rescued or purged meanwhile: born dead */
		:: else
		fi
#ifdef BUG_PUBLISH_BEFORE_ACK
		;
		rec_val[r] = stage_val[s]
#endif
	};
	d_step {
		if
		:: OLD != NOREF -> clear_live(OLD)
		:: else
		fi
	}
}

/* The nodes would not have it. */
inline evict_give_back()
{
	atomic {
		if
		:: W == MAKE(EVICTING, SEALED, s) -> W = MAKE(FETCHING, SEALED, s)
		:: else -> goto given_back
		fi
	};
#ifdef WP
	d_step { assert(present); protected = false };
#else
	d_step { assert(!present && stage_has[s]); present = true; val = stage_val[s] };
#endif
	d_step { leave(MAKE(FETCHING, SEALED, s), MAKE(NEAR, 0, NOREF)) };
given_back:
	atomic {
		if
		:: OLD != NOREF -> clear_live(OLD)
		:: else
		fi
	}
}

proctype evictor()
{
	short w;
	byte s, r;
	bool ok;

end:	do
	:: d_step {
			STATE(W) == NEAR && A_STAGE_IS_FREE && MAY_CLAIM ->
			evict_claim((stage_state[0] == S_FREE -> 0 : 1))
		};
		if
		:: evict_take();
			d_step { leave(MAKE(EVICTING, TAKING, s), MAKE(EVICTING, 0, s)) }
		:: d_step { leave(MAKE(EVICTING, TAKING, s), w) };
			goto evict_over /* EBUSY */
		fi;
		atomic { /* seal */
			if
			:: W == MAKE(EVICTING, 0, s) -> W = MAKE(EVICTING, SEALED, s)
			:: else -> goto evict_over /* rescued or purged: they own the old reference */
			fi
		};
		if
		:: IS_CLEAN -> evict_clean()
		:: !IS_CLEAN -> evict_store()
		:: !IS_CLEAN -> evict_give_back()
		fi;
evict_over:
		atomic {
#ifdef BUG_DROP_EARLY
			stage_has[s] = false;
			stage_val[s] = GARBAGE;
#endif
			stage_state[s] = S_LIMBO;
			stage_readers[s] = READERS;
			stage_reuse_if_allowed(s);
			w = 0; s = 0; r = 0; ok = 0
		}
	od
}

/* evict_drop_clean: a handler whose fetch finds no room. The word stays TAKING until the page's fate is decided. */
#if DROPPERS > 0
proctype dropper()
{
	short w;
	byte s;

end:	do
	:: d_step { STATE(W) == NEAR && (FLAGS(W) & HAS_FAR) && MAY_CLAIM -> evict_claim(PRIVATE) };
		evict_take();
		if
		:: IS_CLEAN ->
			d_step { leave(MAKE(EVICTING, TAKING, s), MAKE(FAR, 0, OLD)) }
		:: !IS_CLEAN ->
			d_step { present = true; val = stage_val[s] };
			d_step { leave(MAKE(EVICTING, TAKING, s), w) }
		fi;
		d_step { /* at once: nobody was told of this slot but by a TAKING word */
			stage_state[s] = S_LIMBO;
			stage_readers[s] = 0;
			stage_reuse_if_allowed(s);
			w = 0; s = 0
		}
	od
}
#endif

/* ------------------------------------------------------------------ purge.c */

#define IS_STAGED(w) (STATE(w) == EVICTING && !(FLAGS(w) & SEALED))
#define NAMES_FAR(w) (STATE(w) == FAR || (STATE(w) == NEAR && (FLAGS(w) & HAS_FAR)))

#ifdef BUG_NO_GEN
#define SAME_CLAIM (W == w)
#else
#define SAME_CLAIM (W == w && gen == g)
#endif

inline purge_madvise()
{
	present = false;
	protected = false;
	val = GARBAGE;
	truth = 0
}

inline purge_release()
{
	d_step {
		if
		:: t != NOREF -> clear_live(t)
		:: else
		fi;
		purge_ref = NOREF
	}
}

#if PURGERS > 0
proctype purger()
{
	short w;
	byte t, g;

end:	do
	:: d_step {
			!MUST_WAIT(W) && MAY_CLAIM ->
			w = W;
			g = gen;
			t = (NAMES_FAR(w) -> REF(w) : NOREF)
		};
		if
		:: d_step { IS_STAGED(w) -> t = stage_old[REF(w)] }
		:: !IS_STAGED(w)
		fi;
#ifdef BUG_LIVE_BEFORE_WORD
		if
		:: SAME_CLAIM -> purge_release()
		:: else
		fi;
#endif
		atomic {
			if
			:: SAME_CLAIM && MAY_CLAIM -> W = MAKE(DROPPING, 0, NOREF); CLAIM; purge_ref = t
			:: else -> goto purge_over
			fi
		};
#ifndef BUG_LIVE_BEFORE_WORD
		purge_release();
#endif
#ifdef BUG_EMPTY_BEFORE_MADVISE
		d_step { leave(MAKE(DROPPING, 0, NOREF), MAKE(EMPTY, 0, NOREF)) };
		d_step { purge_madvise(); INVARIANT };
#else
		d_step { purge_madvise() };
		d_step { leave(MAKE(DROPPING, 0, NOREF), MAKE(EMPTY, 0, NOREF)) };
#endif
purge_over:
		atomic { w = 0; t = 0; g = 0 }
	od
}
#endif

/* ------------------------------------------------------------------ repack.c */

inline repack_claim()
{
	d_step {
		(rec_state[0] == R_STABLE && rec_live[0]) || (rec_state[1] == R_STABLE && rec_live[1]) ||
			(rec_state[RECORDS - 1] == R_STABLE && rec_live[RECORDS - 1]) ->
		do
		:: rec_state[r] == R_STABLE && rec_live[r] -> break
		:: else -> r++
		od;
		rec_state[r] = R_CLAIMED
	}
}

/* Reads the live span, writes it to a new record, turns the word if it still says FAR(r). */
inline repack_move()
{
	d_step { A_RECORD_IS_FREE -> assert(rec_val[r] != GARBAGE); record_write(n, rec_val[r]) };
	d_step {
		if
		:: W == MAKE(FAR, 0, r) -> W = MAKE(FAR, 0, n); clear_live(r)
		:: else -> clear_live(n)
		fi
	}
}

/* A near duplicate is not worth moving. */
inline repack_forget()
{
	d_step {
		if
		:: W == MAKE(NEAR, HAS_FAR, r) -> W = MAKE(NEAR, 0, NOREF); clear_live(r)
		:: else
		fi
	}
}

#if REPACKERS > 0
proctype repacker()
{
	byte r, n;

end:	do
	:: repack_claim();
		if
		:: repack_move()
		:: repack_forget()
		fi;
		d_step { /* unclaim: the last reference may have gone meanwhile, or may be held by others still */
			rec_state[r] = R_STABLE;
#ifdef BUG_REPACK_FREES_ALL
			rec_live[r] = false;
#endif
			record_retire_if_dead(r);
			r = 0; n = 0
		}
	od
}
#endif

init
{
	atomic {
		run app(0);
#if APPS > 1
		run app(1);
#endif
		run evictor();
#if EVICTORS > 1
		run evictor();
#endif
#if DROPPERS > 0
		run dropper();
#endif
#if PURGERS > 0
		run purger();
#endif
#if REPACKERS > 0
		run repacker();
#endif
	}
}
