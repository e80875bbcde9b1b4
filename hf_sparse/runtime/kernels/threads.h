// One team of waiting threads for the process, used by one caller at a time.

#pragma once

#include <pthread.h>

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace {

// Waiting spins first, since the next work comes within microseconds while a model runs.
constexpr int SPINS = 4000;

inline void pause([[maybe_unused]] int spins) {
#if defined(__x86_64__)
    if (spins < SPINS) return __builtin_ia32_pause();
#endif
    std::this_thread::yield();
}

// A barrier at which all members of a team wait for each other.
class Barrier {
public:
    explicit Barrier(int members) : members_(members) {}
    void wait() {
        const int round = round_.load(std::memory_order_acquire);
        if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == members_) {
            arrived_.store(0, std::memory_order_relaxed);
            round_.store(round + 1, std::memory_order_release);
            return;
        }
        for (int spins = 0; round_.load(std::memory_order_acquire) == round; spins++) pause(spins);
    }

private:
    const int members_;
    std::atomic<int> arrived_{0}, round_{0};
};

using Work = std::function<void(int member, int members, Barrier& barrier)>;

class Team {
public:
    // Runs the work on `members` threads, the caller's among them. While another caller uses the team, or if no
    // thread can be started, the caller does all the work alone.
    void run(int members, const Work& work) {
        std::unique_lock<std::mutex> alone(busy_, std::try_to_lock);
        if (members > 1 && alone.owns_lock()) members = hire(members);
        if (members <= 1 || !alone.owns_lock()) {
            Barrier none(1);
            return work(0, 1, none);
        }
        Barrier barrier(members);
        left_.store(members - 1, std::memory_order_relaxed);
        {
            std::lock_guard<std::mutex> guard(mutex_);
            work_ = &work, barrier_ = &barrier, members_ = members;
            round_.fetch_add(1, std::memory_order_release);
        }
        called_.notify_all();
        work(0, members, barrier);
        for (int spins = 0; left_.load(std::memory_order_acquire) > 0; spins++) pause(spins);
    }

private:
    int hire(int members) {
        try {
            while (hired_ + 1 < members) {
                const int member = hired_ + 1;
                std::thread([this, member] { serve(member); }).detach();
                hired_++;
            }
        } catch (const std::system_error&) {
        }
        return std::min(members, hired_ + 1);
    }

    void serve(int member) {
        for (int seen = 0;;) {
            for (int spins = 0; spins < SPINS && round_.load(std::memory_order_acquire) == seen; spins++)
                pause(0);
            std::unique_lock<std::mutex> guard(mutex_);
            called_.wait(guard, [&] { return round_.load(std::memory_order_relaxed) != seen; });
            seen = round_.load(std::memory_order_relaxed);
            const Work* work = work_;
            Barrier* barrier = barrier_;
            const int members = members_;
            guard.unlock();
            if (member >= members) continue;
            (*work)(member, members, *barrier);
            left_.fetch_sub(1, std::memory_order_release);
        }
    }

    std::mutex busy_, mutex_;
    std::condition_variable called_;
    std::atomic<int> round_{0}, left_{0};
    int hired_ = 0, members_ = 0;
    const Work* work_ = nullptr;
    Barrier* barrier_ = nullptr;
};

// Never destroyed, since threads wait in it. A forked process has no such threads and starts a new team.
Team* the_team = nullptr;

inline Team& team() {
    static std::once_flag once;
    std::call_once(once, [] {
        the_team = new Team;
        pthread_atfork(nullptr, nullptr, [] { the_team = new Team; });
    });
    return *the_team;
}

// Scratch memory of one thread, which grows and is kept for the next call unless it is large. The caller allocates it
// for the whole team, since an exception in another thread could not be caught.
template <typename Purpose>
class Scratch {
public:
    explicit Scratch(int64_t words) {
        if (held().size < words) {
            held().size = 0;
            held().memory.reset();
            held().memory.reset(new int32_t[(size_t)(words + ALIGNMENT)]);
            held().size = words;
        }
    }
    ~Scratch() {
        if (held().size > KEPT) held() = Held{};
    }
    int32_t* words() const {
        const auto address = reinterpret_cast<uintptr_t>(held().memory.get());
        return held().memory.get() + (64 - address % 64) % 64 / sizeof(int32_t);
    }

private:
    struct Held {
        std::unique_ptr<int32_t[]> memory;
        int64_t size = 0;
    };
    static constexpr int64_t ALIGNMENT = 16, KEPT = 16 << 20;
    static Held& held() {
        static thread_local Held all;
        return all;
    }
};

// Rounds a size up to whole cache lines.
inline int64_t lined(int64_t words) { return (words + 15) / 16 * 16; }

}  // namespace
