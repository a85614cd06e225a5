import java.io.IOException;
import java.math.BigInteger;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ArrayBlockingQueue;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;
import java.util.concurrent.locks.Condition;
import java.util.concurrent.locks.ReentrantLock;

/**
 * Many threads of a Java virtual machine: {@code Threads DIRECTORY}.
 *
 * Producers and consumers with numbers that must each arrive once, a pool that computes what can
 * be checked, garbage for the collector, timers, monitors, locks, exceptions of the compiled code
 * (null checks are made by a signal handler), and child processes.
 */
public final class Threads {
    private static final int PAIRS = 8;
    private static final AtomicLong produced = new AtomicLong();
    private static final AtomicLong consumed = new AtomicLong();
    private static final AtomicLong ticks = new AtomicLong();
    private static volatile boolean stopping;
    private static volatile Throwable failure;

    public static void main(String[] args) throws Exception {
        Path directory = Path.of(args[0]);
        List<Thread> threads = new ArrayList<>();
        AtomicLong sent = new AtomicLong();
        AtomicLong received = new AtomicLong();
        for (int pair = 0; pair < PAIRS; pair++) {
            BlockingQueue<Long> queue = new ArrayBlockingQueue<>(16);
            long seed = pair;
            threads.add(thread("producer-" + pair, () -> produce(queue, seed, sent)));
            threads.add(thread("consumer-" + pair, () -> consume(queue, received)));
        }
        threads.add(thread("monitor-a", () -> takeTurns(0)));
        threads.add(thread("monitor-b", () -> takeTurns(1)));
        threads.add(thread("garbage", Threads::makeGarbage));
        threads.add(thread("nulls", Threads::meetNulls));
        threads.add(thread("children", Threads::runChildren));
        threads.add(thread("sleeper", Threads::sleepAndPark));
        ScheduledExecutorService timer = Executors.newScheduledThreadPool(2);
        timer.scheduleAtFixedRate(ticks::incrementAndGet, 1, 5, TimeUnit.MILLISECONDS);
        ExecutorService pool = Executors.newFixedThreadPool(4);
        Map<Integer, BigInteger> known = new HashMap<>();
        int round = 0;
        while (!Files.exists(directory.resolve("stop")) && failure == null) {
            List<Future<BigInteger>> answers = new ArrayList<>();
            for (int n = 0; n < 40; n++) {
                int size = 20 + n;
                answers.add(pool.submit(() -> factorial(size)));
            }
            for (int n = 0; n < 40; n++) {
                BigInteger answer = answers.get(n).get(60, TimeUnit.SECONDS);
                BigInteger before = known.putIfAbsent(n, answer);
                check(before == null || before.equals(answer), "a factorial has changed");
            }
            if (++round == 50) {
                Files.createFile(directory.resolve("ready"));
            }
        }
        stopping = true;
        timer.shutdown();
        pool.shutdown();
        check(timer.awaitTermination(60, TimeUnit.SECONDS), "the timer does not end");
        check(pool.awaitTermination(60, TimeUnit.SECONDS), "the pool does not end");
        for (Thread thread : threads) {
            thread.join(60_000);
            check(!thread.isAlive(), thread + " does not end");
        }
        if (failure != null) {
            throw new AssertionError("a thread has failed", failure);
        }
        check(produced.get() == consumed.get(), produced + " made, " + consumed + " arrived");
        check(sent.get() == received.get(), "what arrived is not what was sent");
        check(ticks.get() > 10, "the timer does not tick");
        Files.writeString(directory.resolve("done"), produced + " numbers, " + ticks + " ticks\n");
    }

    private interface Body {
        void run() throws Exception;
    }

    private static Thread thread(String name, Body body) {
        Thread thread = new Thread(() -> {
            try {
                body.run();
            } catch (Throwable exc) {
                exc.printStackTrace();
                failure = exc;
                stopping = true;
            }
        }, name);
        thread.start();
        return thread;
    }

    private static void check(boolean good, String what) {
        if (!good) {
            throw new AssertionError(what);
        }
    }

    private static void produce(BlockingQueue<Long> queue, long seed, AtomicLong sum)
            throws Exception {
        for (long n = 1; !stopping; n++) {
            long value = n * PAIRS + seed;
            check(queue.offer(value, 60, TimeUnit.SECONDS), "the queue stays full");
            sum.addAndGet(value);
            produced.incrementAndGet();
            breathe(n);
        }
        queue.put(-1L);
    }

    private static void consume(BlockingQueue<Long> queue, AtomicLong sum) throws Exception {
        long last = 0;
        while (true) {
            Long value = queue.poll(60, TimeUnit.SECONDS);
            check(value != null, "the queue stays empty");
            if (value < 0) {
                return;
            }
            check(last == 0 || value == last + PAIRS, last + " was followed by " + value);
            last = value;
            sum.addAndGet(value);
            consumed.incrementAndGet();
        }
    }

    private static BigInteger factorial(int n) {
        BigInteger result = BigInteger.ONE;
        for (int factor = 2; factor <= n; factor++) {
            result = result.multiply(BigInteger.valueOf(factor));
        }
        return result;
    }

    private static final Object monitor = new Object();
    private static long turn;

    private static void takeTurns(int which) throws Exception {
        synchronized (monitor) {
            while (!stopping) {
                if (turn % 2 == which) {
                    turn++;
                    monitor.notifyAll();
                } else {
                    monitor.wait(1000);
                }
            }
            monitor.notifyAll();
        }
    }

    /** Leave the processors to others now and then: everybody here could use them all. */
    private static void breathe(long n) throws InterruptedException {
        if (n % 100 == 0) {
            Thread.sleep(1);
        }
    }

    private static void makeGarbage() throws InterruptedException {
        Map<Integer, byte[]> kept = new ConcurrentHashMap<>();
        for (int n = 0; !stopping; n++) {
            byte[] bytes = new byte[1000 + n % 5000];
            bytes[n % 1000] = (byte) n;
            bytes[999] = (byte) (n % 1000);
            kept.put(n % 2000, bytes);
            byte[] old = kept.get((n + 1) % 2000);
            check(old == null || old.length >= 1000, "an object has shrunk");
            breathe(n);
            if (n % 100_000 == 0) {
                System.gc();
            }
        }
    }

    private static int lengthOf(String text) {
        return text.length();
    }

    private static void meetNulls() throws InterruptedException {
        long caught = 0;
        for (long n = 0; !stopping; n++) {
            try {
                check(lengthOf(n % 3 == 0 ? null : "four") == 4, "a length");
                check(n % 3 != 0, "null has a length");
            } catch (NullPointerException exc) {
                caught++;
            }
            try {
                check(100 / (n % 2) == 100, "a quotient");
            } catch (ArithmeticException exc) {
                check(n % 2 == 0, "a division by one failed");
            }
            breathe(n);
        }
        check(caught > 0, "no null was met");
    }

    private static void runChildren() throws IOException, InterruptedException {
        for (int n = 0; !stopping; n++) {
            Process child = new ProcessBuilder("/bin/echo", "number " + n).start();
            String said = new String(child.getInputStream().readAllBytes());
            check(said.equals("number " + n + "\n"), "a child said " + said);
            check(child.waitFor() == 0, "a child ended with " + child.exitValue());
        }
    }

    private static void sleepAndPark() throws Exception {
        ReentrantLock lock = new ReentrantLock();
        Condition never = lock.newCondition();
        CountDownLatch closed = new CountDownLatch(1);
        while (!stopping) {
            long began = System.nanoTime();
            Thread.sleep(3);
            check(System.nanoTime() - began >= 3_000_000, "a sleep was too short");
            lock.lock();
            try {
                began = System.nanoTime();
                check(!never.await(2, TimeUnit.MILLISECONDS) || System.nanoTime() > began, "await");
            } finally {
                lock.unlock();
            }
            check(!closed.await(1, TimeUnit.MILLISECONDS), "a closed latch opened");
        }
    }
}
