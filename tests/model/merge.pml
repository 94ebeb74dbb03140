/*
 * tests/model/merge.pml: two spansets become one while everything else goes on (DESIGN section 7, Compaction). The
 * reference for farmem/merge.c (runtime), farmem/agent/compact_tx.c (agent), memnode/merge.c (parity node) and the
 * phases of farmem/catalog.h.
 *
 * At 2+1: spanset A holds page X at position 0, B page Y at position 1, the other positions are dead. N is to hold
 * both: A's slot of column 0, B's slot of column 1, a fresh slot for its parity. So these slots, and who owns them:
 *
 *      column 0   column 1   parity
 *      0: A, N    1: A       2: A
 *      3: B       4: B, N    5: B      6: of the transaction, then N's
 *
 *   word     FAR(r) -> FETCHING(r) -> KEPT(r): near with a duplicate -> EVICTING(r) -> FAR(r), and from all of them the
 *            reference may be given up: freed, dropped, written elsewhere (OUT: no matter of this model any more)
 *   record   FREE | FILLING | STABLE | CLAIMED | LIMBO; a live bit for each reference
 *   runtime  WANTED -> CLAIMING -> is the group open? -> A and B claimed, N filled, slot 6 taken -> CLAIMED
 *            COMMITTED: N published (CLAIMED) -> words switched by CAS -> A and B in the limbo, N STABLE -> FREE
 *            ABORTED, or not good: all undone
 *   agent    CLAIMED -> txid -> PREPARING -> Begin, Send, Prepare, End, each answered -> COMMITTED
 *            gives up at any point, or dies: ABORTING -> End, until it is answered or that lease is no more -> ABORTED
 *            A node died, or is to go: group closed -> no merge in CLAIMING..COMMITTED -> column rebuilt -> open
 *   parity   Begin(t): scratch; Partial(t): added once; Prepare(t): stores, if the partials are there by now;
 *   node     End(t): t and all before it are over, known or not, and none is at work any more
 *   network  what was sent arrives never, once, often, at any later moment; so do answers: bags that only grow
 *   child    pins, copies both words, reads at any later moment, goes
 *
 * A slot that was given back loses its bytes at once: the worst that its next owner can do. Bytes are right or not
 * (`good`). Asserted, at every moment: all of what a record names that some word or the child names is right, but in
 * the column of a node that died, so each page can be read directly or decoded with one column gone (invariants 1, 2,
 * 5); nothing is stored into slot 6 but by the transaction that has it, and no slot is given back twice (invariant 3);
 * a live bit is cleared once, by who holds the reference; when all pages are out, nothing is left (nothing leaks).
 */
#ifndef TXS
#define TXS 2 /* transactions */
#endif
#ifndef CRASHES
#define CRASHES 1 /* of nodes */
#endif
#ifndef CHILDREN
#define CHILDREN 1
#endif
#ifndef DEATHS
#define DEATHS 1 /* of the agent */
#endif
#ifndef KEEPS
#define KEEPS 1 /* near duplicates */
#endif

/* phases of farmem/catalog.h */
#define P_FREE 0
#define P_WANTED 1
#define P_CLAIMING 2
#define P_CLAIMED 3
#define P_PREPARING 4
#define P_ABORTING 5
#define P_ABORTED 6
#define P_COMMITTED 7
#define P_SWITCHING 8

#define OUT 0
#define FAR 1
#define FETCHING 2
#define KEPT 3
#define EVICTING 4

#define R_FREE 0
#define R_FILLING 1
#define R_STABLE 2
#define R_CLAIMED 3
#define R_LIMBO 4

#define A 0
#define B 1
#define N 2
#define NOREF 3
#define X 0
#define Y 1
#define LIVE(r, page) live[(r) * 2 + (page)]
#define DEAD(r) (!LIVE(r, X) && !LIVE(r, Y))
#define SLOTS 7
#define PARITY_N 6
#define COLUMN(s) ((s) == PARITY_N -> 2 : (s) % 3)
#define NOBODY 3 /* column */

/* messages and answers, by transaction */
#define M_BEGIN 1
#define M_SEND 2
#define M_PARTIAL 4
#define M_PREPARE 8
#define M_END 16
#define Y_BEGUN 1
#define Y_SENT 2
#define Y_STORED 4  /* Prepare: DONE */
#define Y_REFUSED 8 /* Prepare: no */
#define Y_ENDED 16

/* ---- the catalog ---- */
byte phase;
byte txid, last_txid;
bool is_good;
bool open = true;
byte word_state[2] = FAR, word_ref[2];
byte rec_state[3];
bool live[6];

/* ---- the runtime's own ---- */
bool is_free[SLOTS];
byte fresh_tx; /* whose slot 6 is: of the transaction that is to be txid fresh_tx */
bool keeps;    /* N has slots of A and B */
byte held[2] = NOREF; /* references taken from words and not yet given up */
byte pins;
bool kept_by_child[2];
byte child_ref[2] = NOREF;

/* ---- nodes and the network ---- */
bool good[SLOTS];
byte damaged = NOBODY; /* column */
byte lease = 1;        /* of the parity column's node */
byte sent[TXS + 1], answered[TXS + 1], tx_lease[TXS + 1];
byte opened, ended; /* the parity node's: the one that is open, the last one that is over */
bool got, prepared;
byte sum, working;

/* ---- the agent's repair ---- */
byte repair; /* 0 none, 1 group closed, 2 rebuilt, 3 committed */
byte moving = NOBODY;
bool rebuilt[SLOTS];
byte crashes, deaths;

#define NAMED(r)                                                                                                       \
	((word_state[X] != OUT && word_ref[X] == (r)) || (word_state[Y] != OUT && word_ref[Y] == (r)) ||                 \
		child_ref[X] == (r) || child_ref[Y] == (r))
#define RIGHT(s) (good[s] || COLUMN(s) == damaged)
#define WELL_A (RIGHT(0) && RIGHT(1) && RIGHT(2))
#define WELL_B (RIGHT(3) && RIGHT(4) && RIGHT(5))
#define WELL_N (RIGHT(0) && RIGHT(4) && RIGHT(6))
#define BACKED(page)                                                                                                   \
	(word_state[page] == OUT ||                                                                                    \
		(LIVE(word_ref[page], page) &&                                                                         \
			(rec_state[word_ref[page]] == R_STABLE || rec_state[word_ref[page]] == R_CLAIMED)))
#define QUIESCENT                                                                                                      \
	(phase == P_FREE && word_state[X] == OUT && word_state[Y] == OUT && held[X] == NOREF && held[Y] == NOREF)
#define OWNED(r) (rec_state[r] != R_FREE)
#define LEAKS                                                                                                          \
	(live[0] || live[3] || live[4] || live[5] || rec_state[A] == R_CLAIMED || rec_state[B] == R_CLAIMED ||         \
		rec_state[N] == R_CLAIMED || rec_state[N] == R_FILLING || (!is_free[0] && !OWNED(A) && !OWNED(N)) ||   \
		(!is_free[1] && !OWNED(A)) || (!is_free[2] && !OWNED(A)) || (!is_free[3] && !OWNED(B)) ||              \
		(!is_free[4] && !OWNED(B) && !OWNED(N)) || (!is_free[5] && !OWNED(B)) || (!is_free[6] && !OWNED(N)))

proctype monitor()
{
end:	d_step {
		!BACKED(X) || !BACKED(Y) || (NAMED(A) && !WELL_A) || (NAMED(B) && !WELL_B) || (NAMED(N) && !WELL_N) ||
			(QUIESCENT && LEAKS) ->
		assert(BACKED(X) && BACKED(Y));
		assert(!NAMED(A) || WELL_A);
		assert(!NAMED(B) || WELL_B);
		assert(!NAMED(N) || WELL_N);
		assert(!(QUIESCENT && LEAKS))
	}
}

/* ---- the program's pages, and what the runtime does with them ---- */

inline clear_live(r, page)
{
	assert(LIVE(r, page) && (rec_state[r] == R_STABLE || rec_state[r] == R_CLAIMED));
	LIVE(r, page) = false
}

/* A fetch, and an eviction's staging slot, have the reference from the word they took (`mine`). */
proctype pages(byte p)
{
	byte mine = A;

end:	do
	:: d_step { word_state[p] == FAR -> word_state[p] = FETCHING; mine = word_ref[p] }
#if KEEPS > 0
	:: d_step { word_state[p] == FETCHING -> word_state[p] = KEPT; word_ref[p] = mine; mine = A }
	:: d_step { word_state[p] == KEPT -> word_state[p] = EVICTING; mine = word_ref[p] }
	:: d_step { word_state[p] == EVICTING -> word_state[p] = FAR; word_ref[p] = mine; mine = A } /* clean */
#endif
	:: d_step { /* installed without a duplicate; purged; written elsewhere */
			word_state[p] != OUT ->
			held[p] = (word_state[p] == FETCHING || word_state[p] == EVICTING -> mine : word_ref[p]);
			word_state[p] = OUT;
			word_ref[p] = A;
			mine = A
		};
		d_step { clear_live(held[p], p); held[p] = NOREF }
	od
}

/* ---- slots and records ---- */

inline give(s)
{
	assert(!is_free[s]);
	is_free[s] = true;
	good[s] = false
}

inline retire(r)
{
	assert(rec_state[r] == R_CLAIMED);
#ifndef BUG_RETIRE_EARLY
	assert(DEAD(r));
#endif
	rec_state[r] = R_LIMBO
}

/* Grace: those who may still read by a reference keep its live bit; a child is what is waited for. */
#ifdef BUG_NO_GRACE
#define PASSED true
#else
#define PASSED (pins == 0)
#endif

proctype reclaim()
{
end:	do
	:: d_step { rec_state[A] == R_STABLE && DEAD(A) -> rec_state[A] = R_LIMBO }
	:: d_step { rec_state[B] == R_STABLE && DEAD(B) -> rec_state[B] = R_LIMBO }
	:: d_step { rec_state[N] == R_STABLE && DEAD(N) -> rec_state[N] = R_LIMBO }
	:: d_step {
			rec_state[A] == R_LIMBO && PASSED ->
			rec_state[A] = R_FREE;
			give(1);
			give(2);
			if
#ifndef BUG_KEEP_NONE
			:: keeps
#endif
			:: else -> give(0)
			fi
		}
	:: d_step {
			rec_state[B] == R_LIMBO && PASSED ->
			rec_state[B] = R_FREE;
			give(3);
			give(5);
			if
#ifndef BUG_KEEP_NONE
			:: keeps
#endif
			:: else -> give(4)
			fi
		}
	:: d_step { rec_state[N] == R_LIMBO && PASSED -> rec_state[N] = R_FREE; give(0); give(4); give(6); fresh_tx = 0 }
	od
}

/* ---- the runtime's half ---- */

inline unclaim(r)
{
	assert(rec_state[r] == R_CLAIMED);
	rec_state[r] = R_STABLE
}

inline publish()
{
	assert(rec_state[N] == R_FILLING);
	rec_state[N] = R_CLAIMED;
	LIVE(N, X) = LIVE(A, X);
	LIVE(N, Y) = LIVE(B, Y);
	keeps = true
}

/* The word of a page that source r names turns to N, if it is still there and nobody works on it. */
inline switch_one(r, page, settled)
{
	if
#ifdef BUG_CLEAR_FIRST
	:: d_step { LIVE(r, page) && (word_state[page] == FAR || word_state[page] == KEPT) && word_ref[page] == r ->
			LIVE(r, page) = false };
		d_step {
			if
			:: (word_state[page] == FAR || word_state[page] == KEPT) && word_ref[page] == r -> word_ref[page] = N
			:: else -> LIVE(N, page) = false
			fi;
			settled = true
		}
#else
#ifdef BUG_SWITCH_ANY
	:: d_step { word_state[page] != OUT && word_ref[page] == r -> word_ref[page] = N };
#else
	:: d_step { (word_state[page] == FAR || word_state[page] == KEPT) && word_ref[page] == r -> word_ref[page] = N };
#endif
		d_step { clear_live(r, page); settled = true }
#endif
#ifdef BUG_RETIRE_EARLY
	:: word_state[page] == FETCHING -> settled = true
#endif
	:: d_step { /* it left meanwhile: one more hole */
			!LIVE(r, page) ->
#ifndef BUG_FORGET_HOLE
			if
			:: LIVE(N, page) -> clear_live(N, page)
			:: else
			fi;
#endif
			settled = true
		}
	fi
}

proctype runtime()
{
	bool settled_x, settled_y;

end:	do
#ifdef BUG_CHECK_BEFORE_CLAIMING
	:: phase == P_WANTED && open && pins == 0 ->
		phase = P_CLAIMING;
#else
	:: phase == P_WANTED ->
		phase = P_CLAIMING;
		if
		:: !open || pins > 0 -> phase = P_FREE; goto over
		:: open && pins == 0
		fi;
#endif
		if
		:: d_step { rec_state[A] == R_STABLE -> rec_state[A] = R_CLAIMED }
		:: rec_state[A] != R_STABLE -> phase = P_FREE; goto over
		fi;
		if
		:: d_step { rec_state[B] == R_STABLE -> rec_state[B] = R_CLAIMED }
		:: rec_state[B] != R_STABLE -> d_step { unclaim(A); phase = P_FREE }; goto over
		fi;
		if
		:: !LIVE(A, X) || !LIVE(B, Y) || rec_state[N] != R_FREE ->
			d_step { unclaim(A); unclaim(B) };
			phase = P_FREE;
			goto over
		:: else
		fi;
		d_step {
			assert(is_free[PARITY_N]);
			is_free[PARITY_N] = false;
			fresh_tx = last_txid + 1;
			rec_state[N] = R_FILLING
		};
#ifdef BUG_PUBLISH_EARLY
		d_step { publish() };
		phase = P_CLAIMED;
		goto switching;
#endif
		phase = P_CLAIMED
	:: d_step { phase == P_COMMITTED && is_good && (LIVE(A, X) || LIVE(B, Y)) -> publish() };
		phase = P_SWITCHING
	:: phase == P_SWITCHING ->
#ifdef BUG_PUBLISH_EARLY
switching:
#endif
		switch_one(A, X, settled_x);
		switch_one(B, Y, settled_y);
		d_step { retire(A); retire(B); settled_x = false; settled_y = false };
		d_step { unclaim(N) };
		phase = P_FREE
	:: phase == P_ABORTED || (phase == P_COMMITTED && (!is_good || (!LIVE(A, X) && !LIVE(B, Y)))) ->
		d_step { rec_state[N] = R_FREE; give(PARITY_N); fresh_tx = 0; unclaim(A); unclaim(B) };
		phase = P_FREE;
over:		skip
	od
}

/* ---- the agent's half ---- */

/* The parity node's scratch goes. */
inline forget()
{
	opened = 0;
	got = false;
	sum = 0;
	prepared = false
}

#define UNDER_WAY (phase >= P_CLAIMING && phase <= P_COMMITTED)

inline rebuild(s, owner1, owner2)
{
	rebuilt[s] = (COLUMN(s) == moving && ((owner1) || (owner2)))
}
#define NEEDED(r)                                                                                                      \
	(rec_state[r] == R_CLAIMED || (rec_state[r] == R_STABLE && !DEAD(r)) ||                                        \
		((rec_state[r] == R_STABLE || rec_state[r] == R_LIMBO) && pins > 0))
#define MEND(s) good[s] = (COLUMN(s) == moving -> rebuilt[s] && !is_free[s] : good[s]); rebuilt[s] = false

proctype agent()
{
end:	do
	:: d_step { phase == P_FREE && last_txid < TXS && open -> is_good = false; txid = 0; phase = P_WANTED }
	:: phase == P_CLAIMED ->
		d_step { last_txid++; txid = last_txid; tx_lease[txid] = lease };
		if
		:: phase == P_CLAIMED -> phase = P_PREPARING
		:: else
		fi
	:: d_step { phase == P_PREPARING && !(sent[txid] & M_BEGIN) -> sent[txid] = sent[txid] | M_BEGIN }
	:: d_step { phase == P_PREPARING && (answered[txid] & Y_BEGUN) && !(sent[txid] & M_SEND) ->
			sent[txid] = sent[txid] | M_SEND }
	:: d_step { phase == P_PREPARING && (answered[txid] & Y_SENT) && !(sent[txid] & M_PREPARE) ->
			sent[txid] = sent[txid] | M_PREPARE }
	:: d_step {
			phase == P_PREPARING && (answered[txid] & (Y_STORED | Y_REFUSED)) && !(sent[txid] & M_END) ->
			sent[txid] = sent[txid] | M_END
		}
#ifdef BUG_COMMIT_UNENDED
	:: d_step { phase == P_PREPARING && (answered[txid] & Y_STORED) -> is_good = true; phase = P_COMMITTED }
	:: d_step { phase == P_PREPARING && (answered[txid] & Y_REFUSED) -> phase = P_COMMITTED }
#endif
	:: d_step { /* it knows the first answer that it heard */
			phase == P_PREPARING && (answered[txid] & Y_ENDED) && (answered[txid] & Y_STORED) ->
			is_good = true;
			phase = P_COMMITTED
		}
	:: d_step {
			phase == P_PREPARING && (answered[txid] & Y_ENDED) && (answered[txid] & Y_REFUSED) ->
			phase = P_COMMITTED
		}
	/* it gives up, or the group is to be closed */
	:: d_step { phase == P_CLAIMED || phase == P_PREPARING -> phase = P_ABORTING }
	:: d_step { /* or it dies; its successor asks nobody how far that one was */
			deaths < DEATHS && (phase == P_CLAIMED || phase == P_PREPARING) ->
			deaths++;
#ifdef BUG_RESTART_FORGETS
			phase = P_ABORTED
#else
			phase = P_ABORTING
#endif
		}
	:: d_step { phase == P_ABORTING && txid != 0 && !(sent[txid] & M_END) -> sent[txid] = sent[txid] | M_END }
	:: d_step {
			phase == P_ABORTING &&
#ifndef BUG_ABORT_UNACKED
				(txid == 0 || (answered[txid] & Y_ENDED) || tx_lease[txid] != lease || damaged == 2) ->
#else
				true ->
#endif
			phase = P_ABORTED
		}
	/* repair */
	:: d_step { repair == 0 && damaged != NOBODY -> moving = damaged; open = false; repair = 1 }
	:: d_step { /* or drain: the column is copied, its node serves on */
			repair == 0 && damaged == NOBODY && crashes < CRASHES ->
			crashes++;
			moving = 2;
			open = false;
			repair = 1
		}
	:: d_step {
#ifdef BUG_REPAIR_NO_WAIT
			repair == 1 ->
#else
			repair == 1 && !UNDER_WAY ->
#endif
			rebuild(0, NEEDED(A), NEEDED(N));
			rebuild(1, NEEDED(A), false);
			rebuild(2, NEEDED(A), false);
			rebuild(3, NEEDED(B), false);
			rebuild(4, NEEDED(B), NEEDED(N));
			rebuild(5, NEEDED(B), false);
			rebuild(6, NEEDED(N), false);
			repair = 2
		}
	:: d_step {
			repair == 2 ->
			MEND(0);
			MEND(1);
			MEND(2);
			MEND(3);
			MEND(4);
			MEND(5);
			MEND(6);
			if
			:: moving == 2 -> lease++; forget(); ended = 0; working = 0
			:: else
			fi;
			moving = NOBODY;
			damaged = NOBODY;
			repair = 3
		}
	:: d_step { repair == 3 -> open = true; repair = 0 }
	od
}

/* ---- nodes ---- */

/* A message to a lease that is no more is refused: nothing happens. */
#define ARRIVES(t, what) ((sent[t] & (what)) && tx_lease[t] == lease && damaged != 2)

proctype parity_node(byte t)
{
end:	do
	:: d_step {
#ifdef BUG_NO_WATERMARK
			ARRIVES(t, M_BEGIN) && opened < t && working == 0 ->
#else
			ARRIVES(t, M_BEGIN) && t > ended && opened < t && working == 0 ->
			ended = (opened > ended -> opened : ended);
#endif
			forget();
			opened = t;
			answered[t] = answered[t] | Y_BEGUN
		}
	:: d_step {
#ifdef BUG_ADD_TWICE
			ARRIVES(t, M_PARTIAL) && opened == t && sum < 2 ->
#else
			ARRIVES(t, M_PARTIAL) && opened == t && !got ->
#endif
			got = true;
			sum++
		}
	:: d_step {
			ARRIVES(t, M_PREPARE) && opened == t && working == 0 && !prepared &&
				((got && good[2]) || !(answered[t] & Y_REFUSED)) ->
			if
			:: got && good[2] -> working = t
			:: else -> answered[t] = answered[t] | Y_REFUSED
			fi
		}
	:: d_step { /* the worker stores */
			working == t ->
			assert(!is_free[PARITY_N] && fresh_tx == t);
			good[PARITY_N] = (sum == 1);
			prepared = true;
			working = 0;
			answered[t] = answered[t] | Y_STORED
		}
	:: d_step {
#ifdef BUG_END_NO_WAIT
			ARRIVES(t, M_END) && !(answered[t] & Y_ENDED) ->
#else
			ARRIVES(t, M_END) && !(answered[t] & Y_ENDED) && working != t ->
#endif
#ifndef BUG_NO_WATERMARK
			ended = (t > ended -> t : ended);
#endif
			if
			:: opened != 0 && opened <= t -> forget()
			:: else
			fi;
			answered[t] = answered[t] | Y_ENDED
		}
	od
}

proctype data_node(byte t)
{
end:	do
	:: d_step { /* CRCs of A's and B's pieces: what is wrong is not sent */
			(sent[t] & M_SEND) && !(answered[t] & Y_SENT) && damaged != 1 && good[1] && good[4] ->
			sent[t] = sent[t] | M_PARTIAL;
			answered[t] = answered[t] | Y_SENT
		}
	od
}

inline crash(c, s1, s2, s3)
{
	damaged = c;
	good[s1] = false;
	good[s2] = false;
	good[s3] = false
}

proctype chaos()
{
end:	do
	:: d_step { crashes < CRASHES && damaged == NOBODY -> crashes++; crash(0, 0, 3, 3) }
	:: d_step { crashes < CRASHES && damaged == NOBODY -> crashes++; crash(1, 1, 4, 4) }
	:: d_step { /* the parity node, with all it knows */
			crashes < CRASHES && damaged == NOBODY ->
			crashes++;
			crash(2, 2, 5, 6);
			forget();
			ended = 0;
			working = 0
		}
	:: d_step { opened != 0 && working == 0 -> /* nothing heard of it for long */
			ended = opened;
			forget() }
	od
}

#if CHILDREN > 0
proctype child()
{
	pins = 1;
	d_step { child_ref[X] = (word_state[X] == OUT -> NOREF : word_ref[X]) };
	d_step { child_ref[Y] = (word_state[Y] == OUT -> NOREF : word_ref[Y]) };
	d_step { child_ref[X] = NOREF; child_ref[Y] = NOREF };
	pins = 0
}
#endif

init
{
	byte i;
	atomic {
		d_step {
			word_ref[X] = A;
			word_ref[Y] = B;
			rec_state[A] = R_STABLE;
			rec_state[B] = R_STABLE;
			LIVE(A, X) = true;
			LIVE(B, Y) = true;
			do
			:: i < PARITY_N -> good[i] = true; i++
			:: else -> break
			od;
			is_free[PARITY_N] = true;
			i = 0
		};
		run monitor();
		run pages(X);
		run pages(Y);
		run reclaim();
		run runtime();
		run agent();
		run parity_node(1);
		run data_node(1);
#if TXS > 1
		run parity_node(2);
		run data_node(2);
#endif
#if CHILDREN > 0
		run child();
#endif
		run chaos()
	}
}
