/*
 * The lease protocol of had, small enough to be searched completely. README.md says what each part stands for in the
 * code, what is left out and why nothing is lost by it; `check` runs every search.
 *
 * Three nodes: A and B can own the one group, all three vote and can lead. One process takes one step of one node at a
 * time, in every order. No step ever has to come: an agent that is frozen, starved or cut off (in one direction or both),
 * a message that is late or lost, is a step that does not come. Only clocks and kernels cannot be stopped.
 */
#define A 0
#define B 1
#define W 2
#define NONE 3

/* ---- bounds ------------------------------------------------------------------------------------------------------ */
#ifndef MAXI
#define MAXI 4		/* decisions about the group in one run */
#endif
#ifndef MAXT
#define MAXT 3		/* Raft terms; the first leader is elected within them */
#endif
#ifndef D
#define D 2		/* ticks of a lease; other times are counted in the same ticks */
#endif
#ifndef DRIFT
#define DRIFT 1		/* how far the odd clock parts from the others */
#endif
#ifndef SLACK
#define SLACK 1		/* how late the kernel may be */
#endif

/* ---- times; M_... are the mutations: each takes one rule away ---------------------------------------------------- */
#if defined(M_WAIT_SLACK)
#define WAIT (D + DRIFT)
#elif defined(M_WAIT_DRIFT)
#define WAIT (D + SLACK)
#else
#define WAIT (D + DRIFT + SLACK)	/* lease.Timing.TakeoverWait, without the margin */
#endif

#ifdef LIVE
#define FAST 0
#else
#define FAST DRIFT	/* the leader's clock may have been that much faster than the holder's; it need not use it */
#endif
#ifdef M_SINCE
#define NEW (WAIT - FAST)
#else
#define NEW 0		/* a new leader has heard of nobody since its election */
#endif

/* ---- what Raft replicates, and who leads ------------------------------------------------------------------------- */
#define UNOWNED 0
#define OWNED 1
#define RELEASING 2

byte hown[MAXI+1];	/* the state after each entry: owner, */
byte hph[MAXI+1];	/* phase, */
byte hep[MAXI+1];	/* epoch, */
byte has[MAXI+1];	/* and the index at which the epoch was given */
byte commit;		/* newest entry that anybody may know to be committed */
byte pend;		/* proposed by boss, not known to be committed: */
#define OWN 1		/* OWN + n: n becomes the owner */
#define GIVE 4		/* the owner is to release */
#define FREE 5		/* nobody owns it */

byte term[3];		/* of each voter; survives a restart */
bit led[3];		/* has a ledger; a deposed leader keeps it until it hears of the newer term */
byte withheld[3];	/* the epoch that no grant of this leader lists any more */
byte applied[3];	/* how far the node's own copy of the state goes */
byte boss = NONE;	/* whose barrier came last: only its proposals can be committed */
byte silent[2];		/* in its ledger: the age of the newest confirmation, or of the ledger */

/* ---- the holders on A and B -------------------------------------------------------------------------------------- */
byte by[2];		/* 1 + the leader that a quorum has confirmed for the renewal under way; 0: none */
byte rage[2];		/* the age of its t0 */

byte lage[2];		/* the age of the t0 of the lease; D: no lease */
byte gidx[2];		/* Index of its grant */
byte gheld[2];		/* the epoch that the grant lists */
byte first[2];		/* 1 + Index of the first grant of this process; 0: none yet */
byte said[2];		/* newest epoch promised away: a report may arrive at any time, also after a restart */
byte kern[2];		/* ticks until the kernel must have removed the address, 0: it is not there */

bit healed;		/* no faults from now on (LIVE) */

#define max(a, b) (a > b -> a : b)

/* ---- Reconcile and UntilFor: what a node may do ------------------------------------------------------------------ */
#define copy(h, n) h[applied[n]]
#define owner(n) (copy(hown, n) == n)

#ifdef M_STALE
#define caught_up(n) true
#else
#define caught_up(n) (applied[n] + 1 >= first[n])
#endif
#ifdef M_HELD
#define revoked(n) false
#else
#define revoked(n) (gidx[n] >= copy(has, n) && gheld[n] != copy(hep, n))
#endif
#define leased(n) (owner(n) && lage[n] < D && caught_up(n) && !revoked(n))
#define may_hold(n) (leased(n) && copy(hph, n) == OWNED)

#ifdef M_FRESH
#define lifetime(n) (D + SLACK)
#else
#define lifetime(n) (D - lage[n] + SLACK)
#endif

#define can_promise(n) (owner(n) && copy(hph, n) == RELEASING && said[n] < copy(hep, n))

#ifdef S3
#define CHECK(n) assert(kern[n] == 0 || !may_hold(n) || copy(hep, n) == hep[commit])	/* nobody acts for an epoch that is over, */
#define EPOCH assert(pend == GIVE || (kern[A] == 0 && kern[B] == 0)); assert(hep[commit] >= hep[commit-1])
#elif defined(REACH)
#define CHECK(n) assert(n != B || applied[B] < 2)	/* must fail: the search does see B take over */
#define EPOCH skip
#else
#define CHECK(n) assert(kern[A] == 0 || kern[B] == 0)	/* S1: never two nodes with the address */
#define EPOCH skip
#endif

/* An address is there as early, as often renewed, and as long as the rules allow: at worst. */
inline act(n) {
	if
	:: may_hold(n) || (kern[n] > 0 && leased(n)) -> kern[n] = max(kern[n], lifetime(n)); CHECK(n)
	:: else
	fi;
	if
	:: gidx[n] < copy(has, n) -> gidx[n] = 0; gheld[n] = 0	/* says nothing about this epoch or a later one */
	:: else
	fi;
	if
	:: first[n] > 1 && applied[n] + 1 >= first[n] -> first[n] = 1	/* has caught up for good */
	:: else
	fi
}

#ifdef GAP		/* between the clock and the message to the kernel the agent may be stopped */
byte late[2];		/* the lifetime in a message that is still on its way; 0: none */
byte ticket[2];		/* ticks until the kernel refuses it (TICKET) */

inline stall(n) {
#ifdef TICKET		/* vip/DESIGN.md, "Never late": valid for one tick, and one tick less is asked for */
	late[n] = lifetime(n) - 1; ticket[n] = 2
#else
	late[n] = lifetime(n)
#endif
}

inline thaw(n) {
	kern[n] = max(kern[n], late[n]);
	late[n] = 0; ticket[n] = 0;
	assert(kern[A] == 0 || kern[B] == 0)
}
#define STALL(n) \
	:: d_step { late[n] == 0 && may_hold(n) -> SAY(n, reads the clock and is stopped); stall(n) } \
	:: d_step { late[n] > 0 -> SAY(n, goes on and its message reaches the kernel); thaw(n) }
#else
#define STALL(n)
#endif

inline promise(n) {
#ifndef M_EARLY
	kern[n] = 0;	/* stopped, and read back */
#endif
	said[n] = copy(hep, n)
}

/* ---- the renewal ------------------------------------------------------------------------------------------------- */
inline forget(n) {	/* it is lost, or of no use any more */
	by[n] = 0; rage[n] = 0
}

#ifdef LAG		/* the leader's state may lag behind its own commit index */
#ifdef READINDEX	/* and what a process is granted first waits until it does not */
bit settled[2];		/* this process has been granted such an answer, whether it came or not */
#define current(l, n) (settled[n] || applied[l] == commit)
#define settle(n, is) settled[n] = is
#else
#define current(l, n) true
#define settle(n, is) skip
#endif
#else
#define current(l, n) true
#define settle(n, is) skip
#endif

#define quorum(l) (term[other1(l)] == term[l] || term[other2(l)] == term[l])	/* another voter follows l */
#define other1(l) (l == A -> B : A)
#define other2(l) (l == W -> B : W)
#ifdef M_VERIFY
#define can_verify(l, n) (led[l])
#else
#define can_verify(l, n) (led[l] && quorum(l) && current(l, n))
#endif

inline verify(n, l) {	/* sent, and then a voter has answered l */
	by[n] = l + 1; rage[n] = 0;
	settle(n, true)
}

#define granter(n) (by[n] - 1)
#define can_grant(n) (by[n] > 0 && led[granter(n)])
#define lists(l, n) (copy(hown, l) == n && copy(hep, l) != withheld[l] -> copy(hep, l) : 0)

inline grant(n) {	/* the leader notes it and answers, the node takes the answer */
	if
	:: boss == granter(n) -> silent[n] = 0
	:: else
	fi;
#ifdef M_T0
	lage[n] = 0;
#else
	lage[n] = rage[n];
#endif
	gidx[n] = applied[granter(n)];
	gheld[n] = lists(granter(n), n);
	first[n] = (first[n] == 0 -> gidx[n] + 1 : first[n]);
	forget(n);
	retire_all();
	act(n)
}

/* ---- Raft -------------------------------------------------------------------------------------------------------- */
#define newest max(term[A], max(term[B], term[W]))

inline step_down(n) {
	led[n] = 0; withheld[n] = 0;
	if
	:: boss == n -> boss = NONE; silent[A] = 0; silent[B] = 0
	:: else
	fi
}

/* A deposed leader that does not know it can do one thing more: answer renewals that a quorum had confirmed before. One
 * that has none is like one that has heard. A voter that does not lead may as well have heard of the newest term. */
#ifdef M_VERIFY
#define useless(n) false
#else
#define useless(n) (by[A] != n + 1 && by[B] != n + 1)
#endif
inline retire(n) {
	if
	:: term[n] < newest && (!led[n] || useless(n)) -> step_down(n); term[n] = newest
	:: else
	fi
}

inline retire_all() {
	retire(A); retire(B); retire(W)
}

#define can_commit(l) (pend != 0 && boss == l && quorum(l))
#define can_apply(n) (applied[n] < commit)

inline enter() {	/* State.Apply */
	commit++;
	hown[commit] = hown[commit-1]; hep[commit] = hep[commit-1]; has[commit] = has[commit-1];
	if
	:: pend == GIVE -> hph[commit] = RELEASING
	:: pend == FREE -> hph[commit] = UNOWNED; hown[commit] = NONE
	:: else -> hph[commit] = OWNED; hown[commit] = pend - OWN; hep[commit] = hep[commit-1] + 1; has[commit] = commit
	fi;
	EPOCH;
	pend = 0
}

/* n gets the vote of v, a quorum, and its barrier is committed and applied: a new ledger. The third may not hear of it. What
 * was proposed before is in the new log (then the barrier commits it, too) or never will be. */
inline elect(n, v, adopt) {
	term[n] = newest + 1; step_down(n);
	term[v] = term[n]; step_down(v);
	if
	:: adopt == 1 -> enter()
	:: adopt == 0 -> pend = 0
	:: else
	fi;
	led[n] = true; boss = n; applied[n] = commit;
	silent[A] = NEW; silent[B] = NEW;
	retire(3 - n - v)
}

inline committed(l) {
	enter();
#ifndef LAG
	applied[l] = commit
#endif
}

/* ---- Decide ------------------------------------------------------------------------------------------------------ */
#define now(h) h[commit]
#define can_decide (boss != NONE && pend == 0 && commit < LIMIT && applied[boss] == commit)
#define can_assign (can_decide && now(hph) == UNOWNED)
#define can_release (can_decide && now(hph) == OWNED && !healed)
#define can_next (can_decide && now(hph) == RELEASING && said[now(hown)] >= now(hep))
#define can_take(n) (can_decide && now(hown) == n && (silent[n] + FAST >= WAIT || AGAIN))
#ifdef M_AGAIN
#define AGAIN false
#else
#define AGAIN withheld[boss] == now(hep)
#endif

#ifdef M_WITHHOLD
#define WITHHOLD skip
#else
#define WITHHOLD withheld[boss] = now(hep)
#endif

#ifdef LIVE
#define LIMIT (healed -> MAXI : MAXI - 3)
#define ELECTIONS (healed -> MAXT : MAXT - 1)
#else
#define LIMIT MAXI
#define ELECTIONS MAXT
#endif

/* ---- restarts and time ------------------------------------------------------------------------------------------- */
inline restart(n) {	/* the agent; its term and its addresses survive */
	step_down(n);
	applied[n] = 0;
	if
	:: by[A] == n + 1 -> forget(A)
	:: else
	fi;
	if
	:: by[B] == n + 1 -> forget(B)
	:: else
	fi;
	forget(n);
	lage[n] = D; gidx[n] = 0; gheld[n] = 0; first[n] = 0;
#ifndef M_SETTLED
	settle(n, false);
#endif
#ifdef GAP
	late[n] = 0; ticket[n] = 0
#endif
}

inline age(n) {
	if
	:: by[n] > 0 -> rage[n]++
	:: else
	fi;
#ifndef M_T0
	if
	:: rage[n] >= D -> forget(n)	/* Confirm refuses it */
	:: else
	fi;
#else
	rage[n] = (rage[n] > D -> D : rage[n]);
#endif
	lage[n] = (lage[n] < D -> lage[n] + 1 : D);
	if
	:: lage[n] == D -> gidx[n] = 0; gheld[n] = 0
	:: else
	fi;
	kern[n] = (kern[n] > 0 -> kern[n] - 1 : 0);
	if
	:: boss != NONE && silent[n] + FAST < WAIT -> silent[n]++
	:: else
	fi
}

inline tick() {
#if defined(GAP) && defined(TICKET)
	late[A] = (ticket[A] == 1 -> 0 : late[A]); ticket[A] = (ticket[A] > 0 -> ticket[A] - 1 : 0);
	late[B] = (ticket[B] == 1 -> 0 : late[B]); ticket[B] = (ticket[B] > 0 -> ticket[B] - 1 : 0);
#endif
	age(A);
	age(B)
}

/* ---- every step there is ----------------------------------------------------------------------------------------- */
#define SAY(n, what) printf("%c ", (n == W -> 87 : 65 + n)); printf(#what); printf("\n")

#ifdef LIVE
/* Faults are over: every message arrives, every agent acts, and only when nothing is left to do does the time go on. */
#define faulty (!healed)
#define may_renew(n) (faulty || (by[n] == 0 && lage[n] > 0))
#define due(n) (can_grant(n) || can_apply(n) || can_promise(n) || can_take(n) || (boss != NONE && may_renew(n)))
#define may_tick (faulty || !(due(A) || due(B) || boss == NONE || pend != 0 || (can_assign && (fit(A) || fit(B))) || (can_next && (fit(A) || fit(B)))))
#define fit(n) (faulty || silent[n] < 2)	/* decider.unfit: whoever is silent is not chosen */
#define may_elect (faulty || boss == NONE)
#define HEAL :: d_step { faulty -> printf("the faults are over\n"); healed = true }
#define served (now(hown) != NONE && kern[now(hown)] > 0)
#else
#define faulty true
#define may_renew(n) true
#define may_tick true
#define fit(n) true
#define may_elect true
#define HEAL
#endif

#define HOLDER(n) \
	:: d_step { can_grant(n) -> SAY(n, gets the answer); grant(n) } \
	:: d_step { faulty && by[n] > 0 -> SAY(n, loses the answer); forget(n); retire_all() } \
	:: d_step { can_apply(n) -> SAY(n, applies an entry); applied[n]++; act(n) } \
	:: d_step { can_promise(n) -> SAY(n, promises the epoch away); promise(n) } \
	STALL(n) \
	:: d_step { can_take(n) && fit(1 - n) -> SAY(n, has been silent and the leader proposes the other); WITHHOLD; pend = OWN + 1 - n } \
	:: d_step { can_take(n) -> SAY(n, has been silent and the leader proposes nobody); WITHHOLD; pend = FREE } \
	:: d_step { faulty -> SAY(n, restarts); restart(n); retire_all() }

#define LEADER(n) \
	:: d_step { can_verify(n, A) && may_renew(A) -> SAY(n, has the word of a quorum for a renewal of A); verify(A, n) } \
	:: d_step { can_verify(n, B) && may_renew(B) -> SAY(n, has the word of a quorum for a renewal of B); verify(B, n) } \
	:: d_step { can_commit(n) -> SAY(n, commits its proposal); committed(n); act_on(n) }

#define can_elect (may_elect && newest < ELECTIONS)
#define ELECT(n, v) \
	:: d_step { can_elect -> SAY(n, is elected); elect(n, v, 0); act_on(n) } \
	:: d_step { can_elect && pend != 0 -> SAY(n, is elected and has the open proposal in its log); elect(n, v, 1); act_on(n) } \
	KEEP(n, v)

#ifdef M_TERM
#define KEEP(n, v) :: d_step { can_elect && pend != 0 -> SAY(n, is elected and the open proposal is made in its term); elect(n, v, 2); act_on(n) }
#else
#define KEEP(n, v)
#endif

inline act_on(n) {
	if
	:: n == A -> act(A)
	:: n == B -> act(B)
	:: else
	fi
}

init {
	d_step {
		hown[0] = A; hph[0] = OWNED; hep[0] = 1;
		lage[A] = D; lage[B] = D
	};
	do
	HOLDER(A)
	HOLDER(B)
	LEADER(A)
	LEADER(B)
	LEADER(W)
	ELECT(A, B) ELECT(A, W) ELECT(B, A) ELECT(B, W) ELECT(W, A) ELECT(W, B)
	:: d_step { can_assign && fit(A) -> printf("the leader proposes A\n"); pend = OWN + A }
	:: d_step { can_assign && fit(B) -> printf("the leader proposes B\n"); pend = OWN + B }
	:: d_step { can_release -> printf("the leader proposes a planned move\n"); pend = GIVE }
	:: d_step { can_next && fit(1 - now(hown)) -> printf("the leader has the promise and proposes the other\n"); pend = OWN + 1 - now(hown) }
	:: d_step { can_next && fit(now(hown)) -> printf("the leader has the promise and proposes the same again\n"); pend = OWN + now(hown) }
	:: d_step { faulty && pend != 0 -> printf("the proposal is lost\n"); pend = 0 }
	:: d_step { may_tick -> printf("a tick\n"); tick() }
#ifdef LAG
	:: d_step { can_apply(W) && led[W] -> printf("W: applies an entry\n"); applied[W]++ }
#endif
	HEAL
	od
}

#ifdef LIVE
ltl live { [] (healed -> <> [] served) }
#endif
