import Foundation
import XCTest

@testable import SottovoceCore

/// Arrays of a recording: halves one after the other in `calls.bin`.
struct Piece: Decodable {
    let shape: [Int]
    let start: Int
}

struct Call: Decodable {
    let function: String
    let state: String?
    let feeds, outputs: [String: Piece]
}

/// Answers as Python's engine did, and holds every question to what that was asked.
final class Replay: Engine {
    private let calls: [Call]
    private let halves: Data
    private(set) var made = 0
    private var states = 0

    init(_ folder: URL, _ name: String) throws {
        calls = try JSONDecoder().decode([Call].self, from: Data(contentsOf: folder.appendingPathComponent("\(name).json")))
        halves = try Data(contentsOf: folder.appendingPathComponent("\(name).bin"))
    }

    var isOver: Bool { made == calls.count }
    func value(_ tensor: Tensor) -> Tensor { tensor }
    func tensor(_ value: Tensor) -> Tensor { value }

    func makeState(_ function: String) -> String {
        states += 1
        return "\(function) \(states)"
    }

    func predict(_ function: String, _ feeds: [String: Tensor], _ state: String?) throws -> [String: Tensor] {
        guard made < calls.count else { throw BundleError.damaged("one call of \(function) too many") }
        let call = calls[made], place = "call \(made), \(function)"
        made += 1
        guard call.function == function, call.state == state, Set(call.feeds.keys) == Set(feeds.keys) else {
            throw BundleError.damaged("\(place): \(call.function), \(call.state ?? "-"), \(call.feeds.keys.sorted())")
        }
        for (name, piece) in call.feeds {
            let wanted = array(piece), found = feeds[name]!
            guard found.shape == wanted.shape, found.values.map(\.bitPattern) == wanted.values.map(\.bitPattern) else {
                throw BundleError.damaged("\(place): \(name) differs")
            }
        }
        return call.outputs.mapValues(array)
    }

    private func array(_ piece: Piece) -> Tensor {
        let count = piece.shape.reduce(1, *)
        return halves.withUnsafeBytes { bytes in
            Tensor(piece.shape, (0..<count).map { bytes.loadUnaligned(fromByteOffset: 2 * (piece.start + $0), as: Float16.self) })
        }
    }
}

/// Utterances that Python's loop said, again: the folders below the one that SOTTOVOCE_EXPECTED names.
final class ReplayTests: XCTestCase {
    struct Said: Decodable {
        let prefix, codes: [Int]
        let seed: UInt64
        let maxTokens, minTokens: Int
        let samples: [Float]
    }

    private func replay(_ kind: String) throws {
        guard let path = ProcessInfo.processInfo.environment["SOTTOVOCE_EXPECTED"] else {
            throw XCTSkip("SOTTOVOCE_EXPECTED names no folder")
        }
        let folder = URL(fileURLWithPath: path).appendingPathComponent(kind)
        let all = try JSONDecoder().decode([Said].self, from: Data(contentsOf: folder.appendingPathComponent("said.json")))
        let decoder = try Replay(folder, "decoder"), codec = try Replay(folder, "codec")
        let voice = try Voice(bundle: folder.appendingPathComponent("bundle"), decoder: decoder, codec: codec)
        for said in all {
            let codes = try voice.codes(
                prefix: said.prefix, maxTokens: said.maxTokens, seed: said.seed, minTokens: said.minTokens)
            XCTAssertEqual(codes, said.codes)
            XCTAssertEqual(try voice.sound(codes), said.samples)
        }
        XCTAssertTrue(decoder.isOver && codec.isOver)
    }

    func testTokens() throws { try replay("tokens") }
    func testPatches() throws { try replay("patches") }
    func testStates() throws { try replay("states") }
    func testStatesOfTokens() throws { try replay("token-states") }
    func testLearnedPositions() throws { try replay("learned") }
    func testMeans() throws { try replay("means") }
}
